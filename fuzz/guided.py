"""Coverage-guided fuzzing of the image path: `python -m fuzz.guided FOLDER SECONDS`, in an environment with Atheris.

Atheris sees the Python of Kickstand and of Pillow, where headers and metadata are read, and steers by it. A finding, be
it an exception, a photo that takes more than 10 CPU seconds or 1 GB, is kept in FOLDER; so is the corpus, and the next
run continues from it.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "kickstand"]):
    import PIL.BmpImagePlugin
    import PIL.GifImagePlugin
    import PIL.JpegImagePlugin
    import PIL.MpoImagePlugin
    import PIL.PngImagePlugin
    import PIL.TiffImagePlugin
    import PIL.WebPImagePlugin  # noqa: F401

    from fuzz import images
    from kickstand.classify import decoder
    from kickstand.classify import images as core

SEEDS = ("empty files and fragments", "truncated", "mutated", "polyglots", "dimensions", "animated", "ICC, EXIF, XMP")
LARGEST = 64 * 1024  # bytes of one attempt; what large files do is tried in the family of bombs


def decode_here(data: bytes, longest: int) -> decoder.Decoded:
    """In this process, for Atheris sees no other."""
    try:
        return decoder.decode(data, longest)
    except MemoryError as error:
        raise decoder.Refused("needs too much memory") from error


def try_one(data: bytes) -> None:
    """One attempt; whatever is neither a decision nor a clear refusal is a finding."""
    outcome = images.attempt(data)
    if outcome not in ("decided", "refused"):
        raise AssertionError(outcome)


def main() -> None:
    vars(core)["decode_apart"] = decode_here
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for family in SEEDS:
        for number, (_, data) in enumerate(images.FAMILIES[family](1)):
            if len(data) <= LARGEST:
                (corpus / f"seed-{SEEDS.index(family)}-{number}").write_bytes(data)
    limits = [f"-max_total_time={seconds}", f"-max_len={LARGEST}", "-timeout=10", "-rss_limit_mb=1024"]
    atheris.Setup(
        [sys.argv[0], str(corpus), *limits, f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=1"],
        try_one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
