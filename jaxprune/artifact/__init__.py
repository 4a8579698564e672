"""Save and load compressed networks: weights, plan, metadata, functions. No pickle."""

from jaxprune.artifact.files import ArtifactError as ArtifactError
from jaxprune.artifact.function import export_function as export_function
from jaxprune.artifact.function import load_function as load_function
from jaxprune.artifact.function import save_function as save_function
from jaxprune.artifact.store import Artifact as Artifact
from jaxprune.artifact.store import bound as bound
from jaxprune.artifact.store import load as load
from jaxprune.artifact.store import save as save
