"""Prompts that people typed into Pick-a-Pic (Kirstain et al. 2023, arXiv 2305.01569), each once: what Diffusion-DPO
and its peers are compared on. The publisher's splits `validation_unique` and `test_unique` hold 500 each.

They are as people typed them: some are unsafe.
"""

from __future__ import annotations

from diffdpo.benchmarks.registry import Options, Suite, numbered
from diffdpo.benchmarks.suites.sources import Source, locate
from diffdpo.data.prompts import read_prompts
from diffdpo.errors import unknown

SPLITS = ("validation", "test")
HUB = "yuvalkirstain/pickapic_v1_no_images"
"""The captions alone; the splits with images are gigabytes."""
SCORERS = ("pickscore", "hpsv2.1", "aesthetic", "clipscore")


def load(options: Options) -> Suite:
    """The distinct prompts of one split, in the file's order.

    Raises:
        UserError: an unknown split, or a file that cannot be used.
    """
    split = options.split or SPLITS[0]
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    path = locate(options.data, Source((f"{split}_unique*", f"{split}*"), hub=HUB))
    prompts = [prompt.text for prompt in read_prompts(path)]
    return Suite(
        name="pickapic",
        title=f"Pick-a-Pic {split} prompts",
        cases=numbered(prompts),
        scorers=SCORERS,
        settings={"split": split},
        files=(path,),
    )
