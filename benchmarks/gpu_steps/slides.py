"""Generated slides and sections of her2st, without SpatialData."""

from __future__ import annotations

import gzip

import numpy as np
from her2st_sections import DIAMETER_UM, TEST, TRAIN, pyramid, read_section

from . import package


def make_slide(name, levels, um_per_px, xy_px, diameter_um, counts, genes):
    """A slide as planning, training and prediction need it, without a SpatialData object."""
    numbers = np.arange(len(xy_px))
    return package.Slide(
        name=name,
        levels=tuple(package.Level(pixels=p, factor=(2.0**i, 2.0**i)) for i, p in enumerate(levels)),
        um_per_px=um_per_px,
        xy_px=xy_px,
        diameter_um=diameter_um,
        axes=np.eye(2),
        instances=numbers,
        obs_names=np.array([f"{name}_{i}" for i in numbers]),
        counts=counts,
        genes=tuple(genes),
        features=None,
        group=name,
        source=None,
        image_key="image",
        shapes_key=name,
        table_name=None,
        coordinate_system="global",
    )


def read_her2st_slide(data, name):
    """A section of her2st."""
    found = read_section(data, name)
    return make_slide(name, found.levels, found.um_per_px, found.xy_px, DIAMETER_UM, found.counts, found.genes)


def generate_tissue(side_px, seed):
    """Coloured blobs and grain, similar to stained tissue, ``(3, y, x)`` uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(90, 230, (3, -(-side_px // 64), -(-side_px // 64)), dtype=np.uint8)
    image = coarse.repeat(64, axis=1).repeat(64, axis=2)[:, :side_px, :side_px]
    return image + rng.integers(0, 25, (1, side_px, side_px), dtype=np.uint8)


def generated_slide(side_px, n_genes, seed=0):
    """Visium-like spots (55 µm wide, 100 µm apart, 0.5 µm per pixel) on generated tissue."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    places = np.arange(100.0, side_px - 100, 200)
    xy = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
    xy[:, 0] += 100 * (np.round(xy[:, 1] / 200) % 2) - 50
    counts = csr_matrix(rng.poisson(3.0, (len(xy), n_genes)).astype(np.float32))
    genes = [f"GENE{i}" for i in range(n_genes)]
    return make_slide("generated", pyramid(generate_tissue(side_px, seed)), 0.5, xy, 55.0, counts, genes)


def write_tiny_her2st(data, genes):
    """Write four tiny sections in the layout of the her2st repository, for a trial without real data."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in (*TRAIN, TEST):
        for folder in (f"ST-imgs/{name[0]}/{name}", "ST-spotfiles", "ST-cnts"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        image = generate_tissue(480, int(name[1:]))
        Image.fromarray(image.transpose(1, 2, 0)).save(data / f"ST-imgs/{name[0]}/{name}/tiny.jpg", quality=90)
        spots = [(x, y, 60 * x, 60 * y) for y in range(1, 8) for x in range(1, 8)]
        rows = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
        rows += [f"{x}\t{y}\t{x}\t{y}\t{px}\t{py}\t1" for x, y, px, py in spots]
        (data / f"ST-spotfiles/{name}_selection.tsv").write_text("\n".join(rows) + "\n")
        lines = ["\t" + "\t".join(genes)]
        for x, y, px, py in spots:
            counts = rng.poisson(1 + image[:, py, px].mean() / 60, len(genes))
            lines.append(f"{x}x{y}\t" + "\t".join(map(str, counts)))
        with gzip.open(data / f"ST-cnts/{name}.tsv.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
