"""The twin's bits, the text layout, the download, and what a broken file is told."""

import http.server
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
from problems import REFERENCES, needs_references

from fastlmm_vi import DataError, WideLMM, datasets
from fastlmm_vi.datasets import load_xyz_mom, make_xyz_twin, read_xyz, write_xyz
from fastlmm_vi.tables import read_table

TWIN = "bb2c9315eccf4200bd7e4370df04dadc65c46beeb8f96aaf427817938b16ffae"


def test_twin_has_the_same_bits_everywhere():
    assert make_xyz_twin().sha256 == TWIN
    assert make_xyz_twin(seed=1).sha256 != TWIN


@needs_references
def test_twin_has_the_published_properties():
    import json

    published = json.loads((REFERENCES / "xyz_mom_published.json").read_text())
    data = make_xyz_twin()
    n, p, c = (published["data"][k] for k in "npc")
    assert data.X.shape == (n, p)
    assert data.Z.shape == (n, c)
    # Sampling errors: of n = 1000 observations, and of 6000 columns.
    assert data.y.mean() == pytest.approx(published["data"]["y_mean"], abs=0.06)
    assert data.y.var() == pytest.approx(published["data"]["y_var"], rel=0.1)
    assert data.X.var() == pytest.approx(1 / 6000, rel=0.01)
    assert data.X.mean(axis=0).std() == pytest.approx(4e-4, rel=0.1)
    assert data.Z.var() == pytest.approx(1.01, rel=0.05)
    model = WideLMM(fit_intercept=False).fit(data.X, data.y, data.Z)
    assert model.sigma2_beta_ == pytest.approx(published["em_numpy"]["sigma2_beta"], rel=0.1)
    assert model.sigma2_e_ == pytest.approx(published["em_numpy"]["sigma2_e"], rel=0.1)
    for run, figures in zip(("em_numpy", "pxem_r"), datasets.PUBLISHED.values(), strict=True):
        assert figures["sigma2_beta"] == published[run]["sigma2_beta"]
        assert figures["sigma2_e"] == published[run]["sigma2_e"]
    assert published["data"]["url"] == datasets.XYZ_URL


def test_round_trip_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    y, Z, X = (
        rng.normal(size=30),
        rng.normal(size=(30, 2)),
        rng.normal(size=(30, 40)) * 10.0 ** rng.integers(-300, 300, 40),
    )
    data = read_xyz(write_xyz(tmp_path / "a.txt", y, Z, X))
    for want, got in ((y, data.y), (Z, data.Z), (X, data.X)):
        np.testing.assert_array_equal(want, got)
    assert data.X.flags.c_contiguous
    assert data.Z_names == ("Z.1", "Z.2")
    assert read_xyz(write_xyz(tmp_path / "b.txt", y, Z[:, :0], X)).Z.shape == (30, 0)


def test_a_fit_of_the_full_size_file_has_the_same_bits(tmp_path):
    data = make_xyz_twin()
    again = read_xyz(write_xyz(tmp_path / "twin.txt", data.y, data.Z, data.X))
    assert again.sha256 == TWIN
    a = WideLMM().fit(data.X, data.y, data.Z)
    b = WideLMM().fit(again.X, again.y, again.Z)
    np.testing.assert_array_equal(a.coef_, b.coef_)
    assert a.loglik_ == b.loglik_


GOOD = "y\tZ.1\tX.1\tX.2\n1\t2\t3\t4\n5\t6\t7\t8\n2\t1\t0\t1\n"
BROKEN = {
    "missing value": (GOOD.replace("\t7\t", "\tNA\t"), r"line 3, column X\.1: missing value"),
    "empty cell": (GOOD.replace("\t7\t", "\t\t"), r"line 3, column X\.1: missing value"),
    "text cell": (GOOD.replace("\t7\t", "\tseven\t"), r"line 3, column X\.1: 'seven' is not a number"),
    "infinite": (GOOD.replace("\t7\t", "\tinf\t"), r"line 3, column X\.1: 'inf' is not finite"),
    "duplicated header": (GOOD.replace("X.2", "X.1"), r"line 1, column 4: the name 'X\.1' is there twice"),
    "short row": (GOOD.replace("5\t6\t7\t8", "5\t6\t7"), "line 3: 3 cells where the header has 4 names"),
    "long row": (GOOD.replace("5\t6\t7\t8", "5\t6\t7\t8\t9"), "line 3: 5 cells where the header has 4 names"),
    "row names": (
        GOOD.replace("\n1\t", "\nr1\t1\t").replace("\n5", "\nr2\t5").replace("\n2", "\nr3\t2"),
        "line 2: 5 cells",
    ),
    "no X columns": (GOOD.replace("X.", "W."), "no feature columns"),
    "stray column": (GOOD.replace("X.2", "weight"), "column 'weight' is neither"),
    "no header": ("1\t2\t3\n4\t5\t6\n", "line 1: holds numbers"),
    "empty": ("", "line 1: empty"),
    "no rows": ("y\tX.1\n", "no data below"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_told_where_and_what(tmp_path, fault):
    text, message = BROKEN[fault]
    path = tmp_path / "broken.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_xyz(path)
    assert "broken.txt" in str(error.value)


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_any_separator(tmp_path, separator):
    path = tmp_path / "a.txt"
    path.write_text(GOOD.replace("\t", separator))
    np.testing.assert_array_equal(read_xyz(path).X, [[3, 4], [7, 8], [0, 1]])


def test_windows_lines_quotes_and_a_last_line_without_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(GOOD.replace("y\tZ.1", '"y"\t"Z.1"').replace("\n", "\r\n").rstrip().encode())
    data = read_xyz(path)
    assert data.y_name == "y"
    np.testing.assert_array_equal(data.y, [1, 5, 2])


def test_what_is_not_a_text_table(tmp_path):
    import gzip

    (tmp_path / "a.gz").write_bytes(gzip.compress(GOOD.encode()))
    (tmp_path / "b.txt").write_bytes(GOOD.encode("utf-16"))
    for name in ("a.gz", "b.txt"):
        with pytest.raises(DataError, match="compressed or binary"):
            read_xyz(tmp_path / name)
    with pytest.raises(DataError, match="is a directory"):
        read_xyz(tmp_path)
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_xyz(tmp_path / "bom.txt").y_name == "y"
    (tmp_path / "fake.npz").write_text(GOOD)
    np.savez(tmp_path / "complex.npz", y=np.ones(3), X=np.ones((3, 2)) * 1j)
    np.savez(tmp_path / "objects.npz", y=np.array([None, 1, 2]), X=np.ones((3, 2)))
    for name, message in (
        ("fake", "not a numpy archive"),
        ("complex", "complex numbers"),
        ("objects", "Python objects"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / f"{name}.npz")


def test_other_containers(tmp_path):
    y, Z, X = np.arange(5.0), np.ones((5, 1)), np.eye(5)
    np.savez(tmp_path / "a.npz", y=y, Z=Z, X=X)
    names, values = read_table(tmp_path / "a.npz")
    assert names[:3] == ("y", "Z.1", "X.1")
    np.testing.assert_array_equal(values[:, 2:], X)
    np.savez(tmp_path / "b.npz", X=X)
    with pytest.raises(DataError, match="arrays y, X"):
        read_table(tmp_path / "b.npz")
    X[2, 2] = np.nan
    np.savez(tmp_path / "c.npz", y=y, X=X)
    with pytest.raises(DataError, match=r"row 3, column X\.3"):
        read_table(tmp_path / "c.npz")
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "nothing.parquet")


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet is read where pyarrow is installed")
    pd.DataFrame({"y": [1.0, 2.0], "X.1": [3.0, 4.0]}).to_parquet(tmp_path / "a.parquet")
    names, values = read_table(tmp_path / "a.parquet")
    assert names == ("y", "X.1")
    np.testing.assert_array_equal(values, [[1, 3], [2, 4]])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on 127.0.0.1 in the place of the public address, and an empty cache."""
    files = tmp_path / "files"
    files.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(files))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets, "XYZ_URL", f"http://127.0.0.1:{httpd.server_port}/XYZ_MoM.txt")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(datasets, "XYZ_SHAPE", (20, 2, 30))
        yield files
        httpd.shutdown()


def test_download_is_cached_checked_and_recorded(server, tmp_path, capfd):
    twin = make_xyz_twin(n=20, p=30, c=2)
    source = write_xyz(server / "XYZ_MoM.txt", twin.y, twin.Z, twin.X)
    assert load_xyz_mom(download=True).sha256 == twin.sha256
    assert "XYZ_MoM.txt" in capfd.readouterr().err
    cached = tmp_path / "cache" / "fastlmm_vi" / "XYZ_MoM.txt"
    assert cached.with_name("XYZ_MoM.txt.sha256").read_text().strip()
    source.unlink()
    assert load_xyz_mom().sha256 == twin.sha256
    cached.write_text(cached.read_text().replace("1", "2", 1))
    with pytest.raises(DataError, match="make_xyz_twin"):
        load_xyz_mom(download=True)


def test_offline_names_the_twin(server):
    with pytest.raises(DataError, match="make_xyz_twin"):
        load_xyz_mom()
    with pytest.raises(DataError, match="make_xyz_twin"):
        load_xyz_mom(download=True)


def test_another_file_is_not_taken_for_the_real_one(tmp_path):
    twin = make_xyz_twin(n=20, p=30, c=2)
    path = write_xyz(tmp_path / "a.txt", twin.y, twin.Z, twin.X)
    with pytest.raises(DataError, match="another file"):
        load_xyz_mom(path)
