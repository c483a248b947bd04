"""One document for a run: the configs of all components, read from YAML and checked as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from models.catalogue import CatalogueConfig
from models.config import Config
from models.features import FeatureConfig
from models.leave_one_out import AEON_MS
from models.mapping import CONTEXT, ItemsConfig, PrepareConfig, SourceConfig
from models.memory import MemorySpec
from models.model import ModelConfig, ServingConfig
from models.ranking.arrange import ArrangeConfig
from models.ranking.ranker import RankerConfig
from models.release import ReleaseConfig
from models.report import EvaluateConfig
from models.requests import RequestConfig
from models.retrieval.sources import CandidateConfig
from models.retrieval.towers import RetrieverConfig
from models.space import TuneConfig
from models.training import TrainConfig


class Document(Config):
    """Everything that a run is told. Each part is explained beside its component."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run; what it writes goes to `runs/name`."""
    runs: str = "runs"
    """Where outputs go."""
    source: SourceConfig
    log: str | None = None
    """Where `jobs.collect` puts the events that the service took: read beside `source`."""
    items: ItemsConfig = ItemsConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    memory: MemorySpec = MemorySpec()
    requests: RequestConfig
    prepare: PrepareConfig = PrepareConfig()
    features: FeatureConfig = FeatureConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    ranker: RankerConfig = RankerConfig()
    candidates: CandidateConfig = CandidateConfig()
    """What retrieval may bring."""
    arrange: ArrangeConfig = ArrangeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    release: ReleaseConfig = ReleaseConfig()
    tune: TuneConfig = TuneConfig()
    """What `jobs.tune` searches; no other job reads it."""

    @property
    def model(self) -> ModelConfig:
        """The parts that decide what weights mean."""
        return ModelConfig(
            heads=self.requests.labels,
            target=self.requests.target,
            catalogue=self.catalogue,
            memory=self.memory,
            features=self.features.model_copy(update=self._implied),
            retriever=self.retriever,
            ranker=self.ranker,
        )

    @property
    def _implied(self) -> dict[str, Any]:
        """Features that follow from the requests."""
        context = {"context": self.requests.context}
        if self.requests.split == "time":
            return context
        # What items remember is the same at all moments then.
        return {**context, "popularity_step": AEON_MS, "popularity_half_lives": (AEON_MS,)}

    @property
    def serving(self) -> ServingConfig:
        """The parts that decide how the weights are used."""
        return ServingConfig(candidates=self.candidates, arrange=self.arrange)

    @property
    def folder(self) -> Path:
        """Where the run's outputs lie."""
        return Path(self.runs) / self.name

    @model_validator(mode="before")
    @classmethod
    def _one_number_of_interests(cls, given: object) -> object:
        """The catalogue hashes into as many buckets as memory counts: said once is enough."""
        if not isinstance(given, dict):
            return given
        memory, catalogue = given.get("memory"), given.get("catalogue") or {}
        state = memory.get("state") if isinstance(memory, dict) else None
        if isinstance(state, dict) and "num_interests" in state and isinstance(catalogue, dict):
            catalogue = {"num_interests": state["num_interests"], **catalogue}
            return {**given, "catalogue": catalogue}
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Document:
        buckets = self.memory.state.num_interests
        if self.catalogue.num_interests != buckets:
            raise ValueError(
                f"catalogue.num_interests is {self.catalogue.num_interests}, "
                f"memory.state.num_interests {buckets}: give it once, under memory.state"
            )
        if self.features.context:
            raise ValueError("features.context: name the fields once, in requests.context")
        context = {CONTEXT + field for field in self.requests.context}
        unused = [n for n in self.source.columns if n.startswith(CONTEXT) and n not in context]
        if unused:
            raise ValueError(
                f"source.columns maps {', '.join(unused)}: name it in requests.context too"
            )
        if self.source.adapter is None or self.items.path is not None:
            wanted = (*self.catalogue.categories, *self.catalogue.numbers)
            missing = [name for name in wanted if name not in self.items.columns]
            if missing:
                raise ValueError(
                    f"catalogue names {', '.join(missing)}: say in items.columns where it is from"
                )
        return self


def load(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Reads, overrides and checks a document.

    Args:
        path: a YAML file.
        overrides: `a.b=c`, the value as YAML: `seed=2`, `requests.labels=[view, purchase]`.

    Raises:
        ValueError: with the file or the override, the key and what is wrong, a line per problem.
    """
    return check(read(path, overrides), str(path), overrides)


def read(
    path: str | Path, overrides: Sequence[str] = (), *, sections: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """What a document says itself, without any default, overrides in place.

    Args:
        sections: files that stand for whole sections, by the section's name.

    Raises:
        ValueError: when a file cannot be read, or an override is none.
    """
    given = _read(Path(path))
    given |= {name: _read(file) for name, file in (sections or {}).items()}
    for text in overrides:
        _override(given, text)
    return given


def check(
    given: dict[str, Any],
    origin: str,
    overrides: Sequence[str] = (),
    *,
    sections: Mapping[str, Path] | None = None,
) -> Document:
    """The document that `read` gave; `origin` says in errors where it is from.

    Raises:
        ValueError: with the origin, the key and what is wrong, a line per problem.
    """
    paths = [text.partition("=")[0].strip() for text in overrides]
    try:
        return Document.model_validate(given)
    except ValidationError as error:
        problems = error.errors()
    files = {name: str(file) for name, file in (sections or {}).items()}
    lines = [_explain(p, files.get(str(next(iter(p["loc"]), "")), origin), paths) for p in problems]
    raise ValueError("\n".join(lines))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; configs/ holds examples")
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), _Strict)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: a mapping is needed at the top, such as `name: my_run`")
    return given


class _Strict(yaml.SafeLoader):
    """Refuses a key that comes twice, where YAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        plain = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in plain]
        twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} comes twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _override(given: dict[str, Any], text: str) -> None:
    """Applies `a.b=c` in place."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"--set {text}: write it as key.key=value")
    place = given
    for depth, key in enumerate(keys[:-1], start=1):
        inner = place.get(key)
        place[key] = {} if inner is None else inner
        if not isinstance(place[key], dict):
            raise ValueError(
                f"--set {path}: {'.'.join(keys[:depth])} has no keys, set it as a whole"
            )
        place = place[key]
    try:
        place[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text}: not YAML: {' '.join(str(error).split())}") from None


def _explain(problem: Any, file: str, overrides: Sequence[str]) -> str:
    """One problem as `file: key.path: what is wrong`."""
    location = tuple(part for part in problem["loc"] if part != "[key]")
    key = ".".join(map(str, location))
    said = next((o for o in overrides if f"{key}.".startswith(f"{o}.")), None)
    if said is None and problem["type"] == "extra_forbidden":
        said = next((o for o in overrides if o.startswith(f"{key}.")), None)
    origin = file if said is None else f"--set {said}"
    if key and key != said:
        origin = f"{origin}: {key}"
    if problem["type"] == "extra_forbidden":
        return f"{origin}: unknown key; {_allowed(location)}"
    if problem["type"] == "missing":
        return f"{origin}: is missing"
    text = str(problem["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(problem["input"], dict | Config) else f" (given {problem['input']!r})"
    return f"{origin}: {text}{shown}"


def _allowed(location: Sequence[str | int]) -> str:
    """The keys that could stand there, and the likeliest one."""
    config: type[Config] = Document
    for part in location[:-1]:
        field = config.model_fields.get(str(part))
        config = _config_in(field.annotation) or config if field is not None else config
    names = list(config.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"


def _config_in(annotation: Any) -> type[Config] | None:
    """The config class in an annotation such as `tuple[TileLevel, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next((c for a in get_args(annotation) if (c := _config_in(a)) is not None), None)
