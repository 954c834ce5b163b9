"""ARFF as Mulan and MEKA write it, and as it comes when something is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.arff import read_arff

HEADER = """% songs
@relation '{relation}'
@attribute tempo numeric
@attribute 'key and mode' {{major,minor}}
@attribute title string
@attribute calm {{0,1}}
@attribute sad {{0,1}}

@data
"""
DENSE = "120.5,minor,'A, b',1,0\n% a comment\n60,major,c,0,1\n?,minor,d,1,1\n"
SPARSE = "{0 120.5,1 minor,2 'A, b',3 1}\n{0 60,2 c,4 1}\n{0 ?,1 minor,2 d,3 1,4 1}\n"
XML = """<?xml version="1.0"?>
<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="sad"></label><label name="calm"></label></labels>"""


def written(path, rows=DENSE, relation="songs"):
    path = path / "songs.arff"
    path.write_text(HEADER.format(relation=relation) + rows, encoding="utf-8")
    return path


@pytest.mark.parametrize("rows", [DENSE, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("labels", [-2, ["calm", "sad"]])
def test_labels_at_the_end(tmp_path, rows, labels):
    data = read_arff(written(tmp_path, rows), labels)
    assert data.label_names == ["calm", "sad"]
    assert data.feature_names == ["tempo", "key and mode"]  # a title is no number
    assert data.targets.matrix.toarray().tolist() == [[1, 0], [0, 1], [1, 1]]
    expected = [[120.5, 1], [60, 0], [np.nan, 1]]
    np.testing.assert_array_equal(data.features.toarray(), expected)


def test_mekas_option_in_the_relation(tmp_path):
    assert read_arff(written(tmp_path, relation="songs: -C -2")).label_names == ["calm", "sad"]
    path = tmp_path / "start.arff"
    path.write_text(
        "@RELATION 'x: -C 1 -split'\n@ATTRIBUTE y {0,1}\n@ATTRIBUTE x REAL\n@DATA\n1,2\n0,3\n"
    )
    data = read_arff(path)
    assert data.label_names == ["y"]
    assert data.features.toarray().tolist() == [[2], [3]]


def test_mulans_xml(tmp_path):
    path = written(tmp_path)
    path.with_suffix(".xml").write_text(XML)
    assert read_arff(path).label_names == ["sad", "calm"]
    assert read_arff(path, path.with_suffix(".xml")).targets.counts.tolist() == [2, 2]
    path.with_suffix(".xml").write_text("<labels>")
    with pytest.raises(ValueError, match="Mulan's XML"):
        read_arff(path)


def test_what_a_sparse_row_leaves_out_is_the_first_value(tmp_path):
    """So says the format; a label declared {1,0} is then 1 where it is not written."""
    path = tmp_path / "odd.arff"
    path.write_text("@relation r\n@attribute x numeric\n@attribute y {1,0}\n@data\n{0 5}\n{1 0}\n")
    assert read_arff(path, ["y"]).targets.matrix.toarray().tolist() == [[1], [0]]


def test_latin_1(tmp_path):
    path = tmp_path / "latin.arff"
    path.write_bytes("@relation r\n@attribute é {0,1}\n@data\n1\n0\n".encode("latin-1"))
    assert read_arff(path, 1).label_names == ["é"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@relation r\n@attribute y {0,1}\n@data\n", "rows after @data"),
        ("@relation r\n@attribute y {0,1}\n@data\n0\n0,1\n", "line"),
        ("@relation r\n@attribute y {0,1\n@data\n0\n", "line"),
        ("@relation r\n@attribute y {0,1}\n@data\nyes\n", "line"),
        ("@relation r\n@attribute y {0,1}\n@attribute y {0,1}\n@data\n0,1\n", "line"),
        ("@relation r\n@attribute y {0,1}\n@data\n{0 1\n", "line"),
        ("@relation r\n@attribute y {0,1}\n@data\n{7 1}\n", "ARFF"),
        ("@relation r\n@attribute y numeric\n@data\n3\n", "'y' .* 0 or 1, but got 3"),
        ("@relation r\n@attribute y {0,1}\n@data\n?\n", "'y' .* but got a missing value"),
        ("@relation r\n@attribute y {a,b,c}\n@data\na\n", r"'y' .* 0 or 1, but got \['a'"),
    ],
)
def test_a_corrupt_file_is_named(tmp_path, text, words):
    path = tmp_path / "bad.arff"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_arff(path, ["y"])
    assert "bad.arff" in str(error.value)


def test_labels_must_be_known(tmp_path):
    path = written(tmp_path)
    with pytest.raises(ValueError, match=r"Expected labels to be given .* songs.xml"):
        read_arff(path)
    for labels in (0, 6, -6):
        with pytest.raises(ValueError, match="from 1 to 5"):
            read_arff(path, labels)
    with pytest.raises(ValueError, match=r"attributes of .*\['happy'\]"):
        read_arff(path, ["happy"])
