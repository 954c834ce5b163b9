"""Labels as people have them on disk: each is read right, or refused with what was seen."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from equipoise.audit import read_labels
from tests.test_cli import write

# Targets tells of classes without an example: gaps in ids, empty folders
pytestmark = pytest.mark.filterwarnings("ignore:Of .* classes these have no example")

GENRES = "id,genre\n1,\"['Comedy', 'Drama']\"\n2,['Drama']\n3,[]\n"
SIGNS = "Width;Height;ClassId;Path\n53;54;20;Train/20/a.png\n42;45;0;b.png\n48;52;20;c.png\n"
MANY = "file;kind\n" + "".join(f"{i};{i % 40}\n" for i in range(60))
FRUIT = {"apple": 2, "pear": 1}
AB = {"a": 1, "b": 2}
FILMS = {"Comedy": 1, "Drama": 2}
WEATHER = {"wet": 2, "dry": 1}

# File, its content, counts by name (or by class id), and how it is read
READ = {
    "semicolons": ("signs.csv", SIGNS, {0: 1, 20: 2}),
    "tabs in a csv": ("t.csv", "file\tlabel\na\tpear\nb\tapple\nc\tapple\n", FRUIT),
    "bars": ("b.txt", "file|label\na|pear\nb|apple\nc|apple\n", FRUIT),
    "tsv": ("t.tsv", "label\tfile\npear\ta\napple\tb\napple\tc\n", FRUIT),
    "byte order mark": ("m.csv", "\ufefflabel\npear\napple\napple\n", FRUIT),
    "utf-16": ("u.csv", "label\npear\napple\napple\n".encode("utf-16"), FRUIT),
    "latin-1": ("l.csv", "label\nkäse\nbrot\nbrot\n".encode("latin-1"), {"brot": 2, "käse": 1}),
    "windows lines": ("w.csv", "label\r\npear\r\napple\r\napple\r\n", FRUIT),
    "blanks and blank lines": ("s.csv", "file, label\n\na, pear \nb,apple\n\nc, apple\n", FRUIT),
    "no header": ("h.csv", "apple\npear\napple\n", FRUIT),
    "no header, a field": ("h.csv", "1,apple\n2,pear\n3,apple\n", FRUIT, {"field": "2"}),
    "quoted commas": ("q.csv", 'file,label\na,"big, red"\nb,small\n', {"big, red": 1, "small": 1}),
    "a comma in a title": ("c.csv", "title;label\nHeat, The;pear\nUp;apple\nIt;apple\n", FRUIT),
    "a field": ("f.csv", "label,kind\n1,apple\n2,pear\n3,apple\n", FRUIT, {"field": "kind"}),
    "ids as text": ("i.csv", "file,label\na,1\nb,0\nc,1.0\n", {0: 1, 1: 2}),
    "lists": ("g.csv", GENRES, FILMS),
    "bars in cells": ("g.csv", "id,genres\n1,Comedy|Drama\n2,Drama\n", FILMS),
    "commas": ("g.csv", 'id,genres\n1,"Comedy, Drama"\n2,Drama\n', FILMS, {"separator": ","}),
    "columns of 0 and 1": ("hot.csv", "file,wet,dry\na,1,0\nb,1,1\n", WEATHER),
    "true and false": ("hot.csv", "file,wet,dry\na,True,False\nb,True,True\n", WEATHER),
    "numbers as names": ("n.csv", ",0,1,label\n0,.1,.2,0\n1,.3,.1,1\n2,.2,.2,1\n", {0: 1, 1: 2}),
    "a name among numbers": ("n.csv", "1,kind\n6,a\n8,b\n5,b\n", AB, {"field": "kind"}),
    "a coordinate called y": ("y.csv", "x,y,class\n1,5,a\n2,7,b\n3,5,b\n", AB),
    "json lines": (
        "j.jsonl",
        '{"file": "a", "label": "pear"}\n' + 2 * '{"label": "apple"}\n',
        FRUIT,
    ),
    "json lists": ("j.jsonl", '{"tags": ["wet", "dry"]}\n{"tags": ["wet"]}\n', WEATHER),
}


def counts_of(found):
    targets, names = found
    names = range(targets.num_classes) if names is None else names
    return {n: c for n, c in zip(names, targets.counts.tolist(), strict=True) if c}


@pytest.mark.parametrize("case", READ)
def test_tables_are_read(case, tmp_path):
    name, content, counts, *how = READ[case]
    path = write(tmp_path / name, content)
    assert counts_of(read_labels(path, **dict(*how))) == counts


# What is wrong with it, and words of the refusal
REFUSED = {
    "more classes than half the rows": ("m.csv", MANY, "kind", "60 rows hold 40 different"),
    "one class a row, few rows": ("m.csv", "class,count\na,9\nb,7\nc,1\n", None, "3 different"),
    "a comma that is not quoted": ("c.csv", "file,label\na,x\nb,x, big\n", None, "row 2 has 3"),
    "one class a row": ("m.csv", MANY.replace("file", "label"), None, "say which column"),
    "no column of labels": ("n.csv", "file,kind\na,x\nb,y\n", None, "holds file, kind. Say which"),
    "no such column": ("n.csv", "file,kind\na,x\nb,y\n", "label", "to hold 'label'"),
    "a row without a label": ("r.csv", "file,label\na,x\nb,\n", None, "row 2 of 'label' has none"),
    "a short row": ("r.csv", "file,label\na,x\nb\n", None, "row 2 of 'label' has none"),
    "a number that is none": ("r.csv", "file,label\na,1\nb,nan\n", None, "but got nan"),
    "half a class": ("r.csv", "file,label\na,1\nb,0.5\n", None, "whole class ids, but got 0.5"),
    "a negative class": ("r.csv", "file,label\na,1\nb,-1\n", None, "but got -1"),
    "lists without quotes": ("g.csv", "id,genre\n1,[a b]\n2,[b]\n", None, "to be lists such as"),
    "empty lists alone": ("g.csv", "id,genre\n1,[]\n2,[]\n", None, "in at least one row"),
    "no rows": ("e.csv", "\n \n", None, "has no rows"),
    "a header alone": ("e.csv", "species\n", None, "a line of names alone"),
    "a picture": ("p.csv", b"\x89PNG\r\n\0\0", None, "binary data"),
    "a broken parquet": ("p.parquet", b"PAR1", None, "to be whole"),
    "a broken json": ("j.jsonl", '{"label": \n', None, "j.jsonl"),
    "a spreadsheet": ("s.xlsx", b"PK", None, "ends in .npz"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_are_refused(case, tmp_path):
    name, content, field, words = REFUSED[case]
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=words) as error:
        read_labels(path, field)
    assert name in str(error.value)


def test_columns_of_nearly_0_and_1_are_told(tmp_path):
    path = tmp_path / "hot.csv"
    rows = "a,1,0,1,\nb,0,1,0,1\n" * 9 + "c,1,1,-1,\n"  # the last is known of few
    path.write_text("file,wet,dry,hot,windy\n" + rows)
    expected = r"more than 0 and 1.*hot \('-1'\), windy \(''\).*unknown=-1"
    with pytest.warns(UserWarning, match=expected):
        assert counts_of(read_labels(path)) == {"wet": 10, "dry": 10}


def images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)


def test_folders_of_classes(tmp_path):
    images(tmp_path, "cat/1.png", "cat/deep/2.JPEG", "owl/1.png")
    (tmp_path / "owl" / "notes.txt").write_text("no image")
    images(tmp_path, "owl/moving.gif")  # nor for torchvision's ImageFolder
    (tmp_path / "newt").mkdir()
    targets, names = read_labels(tmp_path)
    assert (names, targets.counts.tolist()) == (["cat", "newt", "owl"], [2, 0, 1])


def test_train_and_test_folders(tmp_path):
    images(tmp_path, "train/cat/1.png", "train/owl/1.png", "train/owl/2.png", "test/cat/1.png")
    assert counts_of(read_labels(tmp_path)) == {"cat": 1, "owl": 2}


def test_an_empty_folder_says_what_it_takes(tmp_path):
    (tmp_path / "what.doc").write_text("")
    with pytest.raises(ValueError, match=r"a folder of images for each class.* holds what.doc"):
        read_labels(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is none at"):
        read_labels(tmp_path / "none")


def test_a_folder_with_a_table_lists_all_missing_images(tmp_path):
    """Ids without an ending, or in a folder below, are found."""
    images(tmp_path, "001.png", "pictures/002.png", "003.png")
    (tmp_path / "labels.csv").write_text("id,label\n001,x\n002,y\n003.png,x\n4,x\n5,y\n")
    with pytest.warns(UserWarning, match=r"2 of the 5 images in .*labels.csv are missing: 4, 5"):
        assert counts_of(read_labels(tmp_path)) == {"x": 3, "y": 2}


def test_parquet_of_lists_and_numbers(tmp_path):
    frame = pd.DataFrame({"id": [1, 2, 3], "tags": [["wet", "dry"], [], ["wet"]], "n": [0, 1, 0]})
    frame.to_parquet(tmp_path / "train.parquet")
    assert counts_of(read_labels(tmp_path / "train.parquet")) == {"wet": 2, "dry": 1}
    assert counts_of(read_labels(tmp_path / "train.parquet", "n")) == {0: 2, 1: 1}
    assert counts_of(read_labels(tmp_path)) == {"wet": 2, "dry": 1}


def huggingface_table(ids):
    """As `datasets` writes one: the class names stand in the metadata of the schema."""
    feature = {"names": ["cat", "newt", "owl"], "_type": "ClassLabel"}
    told = {"info": {"features": {"label": feature}}}
    table = pa.table({"image": ["a"] * len(ids), "label": ids})
    return table.replace_schema_metadata({"huggingface": json.dumps(told)})


def test_a_hugging_face_data_set_saved_to_disk(tmp_path):
    for part, ids in (("train", [0, 2, 2]), ("test", [1])):
        (tmp_path / part).mkdir()
        table = huggingface_table(ids)
        with pa.ipc.new_stream(str(tmp_path / part / "data-0.arrow"), table.schema) as file:
            file.write_table(table)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    targets, names = read_labels(tmp_path)
    assert (names, targets.counts.tolist()) == (["cat", "newt", "owl"], [1, 0, 2])


def test_parquet_shards_of_the_training_part(tmp_path):
    (tmp_path / "data").mkdir()
    for name, ids in (("train-0", [0, 2]), ("train-1", [2]), ("test-0", [1])):
        pa.parquet.write_table(huggingface_table(ids), tmp_path / "data" / f"{name}.parquet")
    assert counts_of(read_labels(tmp_path)) == {"cat": 1, "owl": 2}


def test_a_large_file_is_read_by_parts(tmp_path, monkeypatch):
    from equipoise.audit import tables

    monkeypatch.setattr(tables, "PART", 7)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, 100)
    path = tmp_path / "large.csv"
    path.write_text("x,label\n" + "".join(f"{i},c{c}\n" for i, c in enumerate(ids)))
    targets, names = read_labels(path)
    assert names == ["c0", "c1", "c2", "c3"]
    assert targets.require_single_label("here").tolist() == ids.tolist()
