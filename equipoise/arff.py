"""read_arff: multilabel data in the ARFF of Mulan and MEKA, dense or sparse.

ARFF itself is parsed by liac-arff, the reader behind OpenML's and (as a private copy)
scikit-learn's: `scipy.io.arff` reads no sparse files, and scikit-multilearn's `load_from_arff`
is a wrapper of liac-arff that neither finds the labels by itself nor checks them.
"""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.targets import Targets

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["ArffData", "read_arff"]


@dataclass(frozen=True, eq=False)
class ArffData:
    """A multilabel data set from an ARFF file.

    Attributes:
        features: `(N, F)` CSR float32; nominal attributes as the number of their value, missing
            values NaN, string and date attributes left out.
        targets: `(N, C)` multi-hot.
        feature_names: F names.
        label_names: C names.
    """

    features: csr_matrix
    targets: Targets
    feature_names: list[str]
    label_names: list[str]


def read_arff(path: str | Path, labels: int | str | Path | Sequence[str] | None = None) -> ArffData:
    r"""Features and multi-hot targets of an ARFF file, dense or sparse.

    Which attributes are labels: `labels` says it, or else MEKA's `-C n` in the relation's name, or
    else Mulan's XML file of the same name beside the ARFF file.

    Args:
        path: of the `.arff` file, in UTF-8 or Latin-1.
        labels: n for the first n attributes, −n for the last n (MEKA's convention); the path of
            an XML file (Mulan's); or the labels' names.

    Raises:
        ValueError: a file that is not ARFF or is cut off (with the line, where the parser knows
            it), labels that are not found or are other than 0 and 1, or no word on which
            attributes are labels.
        ImportError: liac-arff is not installed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "songs.arff"
        >>> _ = path.write_text(
        ...     "@relation 'songs: -C 2'\n@attribute calm {0,1}\n@attribute sad {0,1}\n"
        ...     "@attribute tempo numeric\n@data\n{2 98.5}\n{0 1,1 1,2 60}\n"
        ... )
        >>> data = read_arff(path)
        >>> data.label_names, data.targets.counts.tolist(), data.features.toarray().tolist()
        (['calm', 'sad'], [1, 1], [[98.5], [60.0]])
        >>> folder.cleanup()
    """
    path = Path(path)
    relation, attributes, rows = _parse(path)
    names = [name for name, _ in attributes]
    chosen = _label_columns(path, relation, names, labels)
    columns = dict.fromkeys(chosen)
    readable = [
        column
        for column, (_, kind) in enumerate(attributes)
        if column not in columns and (isinstance(kind, list) or kind not in ("STRING", "DATE"))
    ]
    matrix = _matrix(path, attributes, rows, chosen + readable)
    label_part = matrix[:, : len(chosen)].tocsr()
    for place, column in enumerate(chosen):
        _check_label(path, attributes[column], label_part[:, [place]].data)
    return ArffData(
        features=matrix[:, len(chosen) :].tocsr(),
        targets=Targets(label_part),
        feature_names=[names[column] for column in readable],
        label_names=[names[column] for column in chosen],
    )


def _parse(path: Path) -> tuple[str, list[tuple[str, Any]], list[dict[int, Any]]]:
    """Relation, attributes, and each row's stored values by column (nominal ones as text)."""
    try:
        import arff
    except ImportError as error:
        raise ImportError(
            "Reading ARFF needs liac-arff: pip install 'equipoise[multilabel]'"
        ) from error
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    data = re.search(r"^\s*@data\s*$(.*)", text, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    if data is None or not re.search(r"^[^%\s]", data[1], re.MULTILINE):
        raise ValueError(
            f"Expected {path} to be an ARFF file with rows after @data, but it has none."
        )
    sparse = bool(re.match(r"(?:\s|%[^\n]*\n)*\{", data[1]))
    try:
        found = arff.loads(text, return_type=arff.LOD if sparse else arff.DENSE)
        rows = found["data"]
    except (arff.ArffException, ValueError, LookupError, StopIteration) as error:
        reason = str(error).replace("%d", str(getattr(error, "line", "?"))) or type(error).__name__
        raise ValueError(f"Expected {path} to be an ARFF file, but: {reason}") from error
    attributes = found["attributes"]
    if not sparse:
        rows = [dict(enumerate(row)) for row in rows]
    return str(found["relation"]), attributes, rows


def _matrix(
    path: Path, attributes: list[tuple[str, Any]], rows: list[dict[int, Any]], columns: list[int]
) -> csr_matrix:
    """`(N, len(columns))` numbers; what a sparse row leaves out is 0 or the first nominal value."""
    from scipy.sparse import coo_matrix

    place = {column: at for at, column in enumerate(columns)}
    number = {c: _numbers(attributes[c][1]) for c in columns}
    unwritten = {c: kinds[attributes[c][1][0]] for c, kinds in number.items() if kinds}
    unwritten = {c: value for c, value in unwritten.items() if value}
    at: tuple[list[int], list[int]] = ([], [])
    values: list[float] = []
    for i, row in enumerate(rows):
        for column, value in (row if not unwritten else unwritten | row).items():
            if column not in place:
                continue
            kinds = number[column]
            if value is None:
                value = np.nan
            elif kinds and value in kinds:
                value = kinds[value]
            if value != 0:
                at[0].append(i)
                at[1].append(place[column])
                values.append(value)
    shape, ids = (len(rows), len(columns)), np.array(at, np.int64)
    return coo_matrix((np.array(values, np.float32), (ids[0], ids[1])), shape=shape).tocsr()


def _numbers(kind: Any) -> dict[Any, float]:
    """The number of each value of a nominal attribute: its own where all are, else its place."""
    if not isinstance(kind, list):
        return {}
    words = {"false": "0", "true": "1"}
    try:
        return {value: float(words.get(value.lower()) or value) for value in kind}
    except ValueError:
        return {value: float(place) for place, value in enumerate(kind)}


def _check_label(path: Path, attribute: tuple[str, Any], stored: np.ndarray) -> None:
    name, kind = attribute
    if isinstance(kind, list) and not set(_numbers(kind).values()) <= {0.0, 1.0}:
        raise ValueError(f"Expected label {name!r} of {path} to be of {{0,1}}, but got {kind}.")
    wrong = stored[stored != 1]
    if len(wrong):
        got = "a missing value" if np.isnan(wrong[0]) else f"{wrong[0]:g}"
        raise ValueError(f"Expected label {name!r} of {path} to be 0 or 1, but got {got}.")


def _label_columns(
    path: Path, relation: str, names: list[str], labels: int | str | Path | Sequence[str] | None
) -> list[int]:
    if labels is None:
        in_name = re.search(r"(?:^|\s)-[cC]\s+(-?\d+)", relation)
        beside = path.with_suffix(".xml")
        if in_name:
            labels = int(in_name[1])
        elif beside.is_file():
            labels = beside
        else:
            raise ValueError(
                f"Expected labels to be given for {path}: it has neither MEKA's '-C n' in its "
                f"relation ({shlex.quote(relation)}) nor Mulan's {beside.name} beside it. Pass n "
                "for the first n attributes, -n for the last n, an XML file, or their names."
            )
    if isinstance(labels, int | np.integer) and not isinstance(labels, bool):
        if not 0 < abs(labels) <= len(names):
            raise ValueError(
                f"Expected labels to be a number of attributes from 1 to {len(names)}, or its "
                f"negative, but got {labels}."
            )
        everything = list(range(len(names)))
        return everything[:labels] if labels > 0 else everything[labels:]
    wanted = _names_in(Path(labels)) if isinstance(labels, str | Path) else [*labels]  # type: ignore[misc]
    missing = [name for name in wanted if name not in names]
    if missing or not wanted:
        raise ValueError(f"Expected labels to be attributes of {path}, but got {missing[:5]}.")
    column = {name: at for at, name in enumerate(names)}
    return [column[name] for name in wanted]


def _names_in(path: Path) -> list[str]:
    """Label names of a Mulan XML file, also of nested labels."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"Expected {path} to be Mulan's XML file of labels: {error}.") from error
    return [e.attrib["name"] for e in root.iter() if e.tag.endswith("label") and "name" in e.attrib]
