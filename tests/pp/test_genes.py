"""Genes are chosen from counts of training spots only."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy import sparse

from stpredict.pp import select_genes, split
from stpredict.pp.gene_ranking import normalized_dispersion


def chosen(sdata):
    table = sdata["observed"]
    names = list(table.uns["stpredict"]["genes"])
    assert set(names) == set(table.var_names[table.var["target"]])
    return names


def set_counts(sdata, change):
    counts = sdata["observed"].X.toarray()
    change(counts)
    sdata["observed"].X = sparse.csr_matrix(counts)


@pytest.mark.parametrize("method", ["mean", "variance"])
def test_ranking_by_a_plain_moment(sdata, method):
    counts = sdata["observed"].X.toarray().astype(float)
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    rank = np.argsort(-(values.mean(0) if method == "mean" else values.var(0)))[:4]
    select_genes(sdata, n_genes=4, method=method)
    assert chosen(sdata) == [f"GENE{j}" for j in rank]


def test_dispersion_is_relative_to_genes_of_similar_mean():
    rng = np.random.default_rng(0)
    mean = np.r_[np.full(50, 1.0), np.full(50, 5.0)] + 1e-6 * rng.random(100)
    variance = np.r_[rng.normal(0.1, 0.01, 50), rng.normal(2.0, 0.2, 50)]
    variance[7] = 0.3  # remarkable among its like, although every gene of the other bin varies more
    assert np.argmax(normalized_dispersion(mean, variance)) == 7


def test_constant_unseen_and_rare_genes_never_qualify(sdata):
    def change(counts):
        counts[:, 1] = 0
        counts[:, 2] = 0
        counts[:5, 2] = 400  # 5 of 108 spots

    set_counts(sdata, change)
    for method in ("dispersion", "variance", "mean"):
        select_genes(sdata, n_genes=12, method=method)
        assert len(chosen(sdata)) == 10
        assert not {"GENE1", "GENE2"} & set(chosen(sdata))
    select_genes(sdata, n_genes=12, min_fraction=0)
    assert "GENE2" in chosen(sdata)
    assert "GENE1" not in chosen(sdata)


def test_more_genes_asked_for_than_there_are(sdata, caplog):
    with caplog.at_level(logging.INFO, "stpredict"):
        select_genes(sdata)
    assert "12 of 12 genes qualify; 250 were asked for" in caplog.text
    assert sdata["observed"].var["target"].all()


def test_named_genes_keep_their_order(sdata):
    select_genes(sdata, genes=["GENE7", "GENE2", "GENE7"])
    assert chosen(sdata) == ["GENE7", "GENE2"]


def test_missing_genes_are_all_listed(sdata):
    before = sdata["observed"].var.copy()
    with pytest.raises(ValueError, match="2 of 3 genes asked for are no genes of the table: 'ERBB2', 'GATA3'"):
        select_genes(sdata, genes=["ERBB2", "GENE1", "GATA3"])
    assert sdata["observed"].var.equals(before)
    assert "stpredict" not in sdata["observed"].uns


@pytest.mark.parametrize("how", ["groups", "regions", "split"])
def test_held_out_slides_have_no_say(sdata, how):
    arguments = {
        "groups": {"train": ["P0", "P1"], "group_key": "patient"},
        "regions": {"train": ["S0_spots", "S1_spots"]},
    }
    if how == "split":
        split(sdata, held_out=["P2"])
    select_genes(sdata, n_genes=4, **arguments.get(how, {}))
    expected = chosen(sdata)
    last = (sdata["observed"].obs["patient"] == "P2").to_numpy()

    def change(counts):
        counts[np.ix_(last, [3, 8])] *= np.arange(last.sum())[:, None] % 7

    set_counts(sdata, change)
    select_genes(sdata, n_genes=4, **arguments.get(how, {}))
    assert chosen(sdata) == expected
    select_genes(sdata, n_genes=2, train=["P2"], group_key="patient", method="variance")
    assert set(chosen(sdata)) == {"GENE3", "GENE8"}


def test_zero_count_spots_do_not_count(sdata):
    select_genes(sdata, n_genes=12, train=["P0", "P1"], group_key="patient")
    expected = chosen(sdata)
    set_counts(sdata, lambda counts: counts[72:].fill(0))
    select_genes(sdata, n_genes=12)
    assert chosen(sdata) == expected


def test_counts_of_a_layer(sdata):
    table = sdata["observed"]
    table.layers["counts"] = table.X.copy()
    table.X = np.log1p(table.X.toarray())
    with pytest.raises(ValueError, match=r"log1p of whole numbers.*Give the `layer` that holds raw counts"):
        select_genes(sdata)
    select_genes(sdata, layer="counts", n_genes=3)
    assert len(chosen(sdata)) == 3


def test_nothing_else_changes(sdata, synthetic_sdata):
    select_genes(sdata, n_genes=3)
    table, before = sdata["observed"], synthetic_sdata["observed"]
    assert (table.X != before.X).nnz == 0
    assert table.obs.equals(before.obs)
    assert table.var.drop(columns="target").equals(before.var)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"n_genes": 0}, "`n_genes` is 0"),
    ({"min_fraction": 2}, "`min_fraction` is 2"),
    ({"method": "best"}, "`method` is 'best'; allowed: 'dispersion'"),
    ({"train": ["S9"]}, r"`train` names 'S9'; obs\['region'\] holds 'S0_spots'"),
    ({"train": ["P0"], "group_key": "donor"}, r"No column 'donor' in `obs`"),
    ({"table_name": "cells"}, "No table 'cells'"),
    ({"layer": "raw"}, "No layer 'raw'"),
])  # fmt: skip
def test_faults(sdata, arguments, words):
    with pytest.raises(ValueError, match=words):
        select_genes(sdata, **arguments)


def test_one_spot_is_too_few(sdata):
    sdata["observed"].obs["one"] = ["a"] + ["b"] * 107
    with pytest.raises(ValueError, match="needs at least two spots with counts, found 1"):
        select_genes(sdata, train=["a"], group_key="one")


def test_no_gene_varies(sdata):
    set_counts(sdata, lambda counts: counts.fill(5))
    with pytest.raises(ValueError, match="None of 12 genes varies"):
        select_genes(sdata)


def test_not_a_spatialdata():
    with pytest.raises(TypeError, match="Expected a SpatialData"):
        select_genes("her2st.zarr")
