"""read_arff: multilabel data in the ARFF of Mulan and MEKA, dense or sparse.

liac-arff parses: `scipy.io.arff` reads no sparse files, and scikit-multilearn's `load_from_arff`
wraps liac-arff without finding the labels by itself or checking them.
"""

from __future__ import annotations

import re
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
        targets: `(N, C)` multi-hot, with the labels' names.
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
    found = _parsed(path)
    kinds = dict(found["attributes"])
    chosen = _label_names(path, str(found["relation"]), [*kinds], labels)
    features = [name for name in kinds if name not in chosen and kinds[name] not in WORDS]
    matrix = _matrix(found, chosen + features)
    hot = matrix[:, : len(chosen)]
    odd = [name for name in chosen if not {*_numbers(kinds[name]).values()} <= {0.0, 1.0}]
    wrong = np.flatnonzero(hot.data != 1)
    if odd or wrong.size:
        value = kinds[odd[0]] if odd else hot.data[wrong[0]]
        got = "a missing value" if value != value else value
        name = odd[0] if odd else chosen[hot.indices[wrong[0]]]
        raise ValueError(f"Expected label {name!r} of {path} to be 0 or 1, but got {got}.")
    return ArffData(matrix[:, len(chosen) :], Targets(hot, names=chosen), features, chosen)


WORDS = ("STRING", "DATE")


def _parsed(path: Path) -> dict[str, Any]:
    """What liac-arff makes of the file: "relation", "attributes", and "data" by row or sparse."""
    try:
        import arff
    except ImportError as error:
        raise ImportError("ARFF needs liac-arff: pip install 'equipoise[multilabel]'") from error
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    rows = re.search(r"^\s*@data\s*$(?:\s|%.*$)*(.)", text, re.IGNORECASE | re.MULTILINE)
    if rows is None:
        raise ValueError(f"Expected {path} to be ARFF with rows after @data, but it has none.")
    try:
        return dict(arff.loads(text, return_type=arff.LOD if rows[1] == "{" else arff.DENSE))
    except (arff.ArffException, ValueError, LookupError, StopIteration) as error:
        reason = str(error).replace("%d", str(getattr(error, "line", "?"))) or type(error).__name__
        raise ValueError(f"Expected {path} to be an ARFF file, but: {reason}") from error


def _matrix(found: dict[str, Any], names: list[str]) -> csr_matrix:
    """`(N, len(names))` numbers; what a sparse row leaves out is 0 or the first nominal value."""
    from scipy.sparse import csr_matrix

    attributes, rows = found["attributes"], found["data"]
    place = {name: at for at, name in enumerate(names)}
    numbers = {c: _numbers(kind) for c, (name, kind) in enumerate(attributes) if name in place}
    first = {c: attributes[c][1][0] for c, number in numbers.items() if number}
    first = {c: value for c, value in first.items() if numbers[c][value]}
    values: list[float] = []
    at: tuple[list[int], list[int]] = ([], [])
    for i, row in enumerate(rows):
        for c, value in (first | row if isinstance(row, dict) else dict(enumerate(row))).items():
            number = np.nan if value is None else numbers.get(c, {}).get(value, value)
            if c in numbers and number != 0:
                at[0].append(i)
                at[1].append(place[attributes[c][0]])
                values.append(number)
    return csr_matrix((np.array(values, np.float32), at), (len(rows), len(names)))


def _numbers(kind: Any) -> dict[Any, float]:
    """The number of each value of a nominal attribute: its own where all are, else its place."""
    if not isinstance(kind, list):
        return {}
    words = {"false": "0", "true": "1"}
    try:
        return {value: float(words.get(value.lower()) or value) for value in kind}
    except ValueError:
        return {value: float(place) for place, value in enumerate(kind)}


def _label_names(
    path: Path, relation: str, names: list[str], labels: int | str | Path | Sequence[str] | None
) -> list[str]:
    beside = path.with_suffix(".xml")
    if labels is None and (option := re.search(r"(?:^|\s)-[cC]\s+(-?\d+)", relation)):
        labels = int(option[1])
    elif labels is None and beside.is_file():
        labels = beside
    if labels is None:
        raise ValueError(
            f"Expected labels to be given for {path}: it has neither MEKA's '-C n' in its relation "
            f"({relation!r}) nor Mulan's {beside.name} beside it. Pass n for the first n "
            "attributes, -n for the last n, an XML file, or their names."
        )
    if isinstance(labels, int | np.integer):
        if not 0 < abs(labels) <= len(names):
            raise ValueError(
                f"Expected labels to be a number of attributes from 1 to {len(names)}, or its "
                f"negative, but got {labels}."
            )
        return names[:labels] if labels > 0 else names[labels:]
    if isinstance(labels, str | Path):
        try:
            elements = ElementTree.parse(labels).iter()
        except ElementTree.ParseError as error:
            raise ValueError(f"Expected {labels} to be Mulan's XML of labels: {error}.") from error
        labels = [e.attrib["name"] for e in elements if e.tag.endswith("label") and e.attrib]
    missing = [name for name in labels if name not in names]
    if missing or not labels:
        raise ValueError(f"Expected labels to be attributes of {path}, but got {missing[:5]}.")
    return list(labels)
