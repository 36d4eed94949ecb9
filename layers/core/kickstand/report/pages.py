"""The pages that Kickstand shows in a browser: one environment, one base page, one style, no network."""

import base64
import json
from datetime import datetime
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import escape

from kickstand.text import counted, finalize


def make_environment(package: str = "kickstand.report") -> Environment:
    """For the templates of this package and the shared ones (`base.html`); every value is escaped and printable."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "kickstand.report"))]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(counted=counted, percent=percent, moment=moment, hours=hours, name=name)
    return environment


def percent(value: float) -> str:
    """A share for people: never rounded up to certainty.

    >>> percent(0.99996), percent(0.421), percent(0.0)
    ('> 99.9 %', '42.1 %', '0.0 %')
    """
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < value < 0.0005 else f"{value:.1%}".replace("%", " %")


def moment(at: datetime) -> str:
    """A moment for people.

    >>> from datetime import UTC
    >>> moment(datetime(2026, 5, 4, 9, 30, tzinfo=UTC))
    '2026-05-04 09:30'
    """
    return f"{at:%Y-%m-%d %H:%M}"


def hours(value: float) -> str:
    """A time span for people.

    >>> hours(0.25), hours(5.2), hours(50)
    ('15 min', '5.2 h', '2.1 days')
    """
    if value < 1:
        return f"{value * 60:.0f} min"
    return f"{value:.1f} h" if value < 48 else f"{value / 24:.1f} days"


def data_uri(media_type: str, content: bytes) -> str:
    """The content as an address, so that a page needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def for_script(value: Any) -> str:
    """The value as JSON in a script block, which may not hold "</script>", but a photo's name may."""
    return json.dumps(value).replace("<", "\\u003c")


def name(image: str) -> str:
    """The last part of a photo's key.

    >>> name("s3://bucket/camera 1/bike.jpg")
    'bike.jpg'
    """
    return image.rpartition("/")[2]


def shows(page: bytes, image: str) -> bool:
    """Whether the report's page shows or names this photo. An older page has only the last part of its key."""
    titles = finalize(image), finalize(name(image)), name(image)  # 0.1.0 escaped no hidden letters
    written = {f'title="{escape(title)}"' for title in titles} | {for_script(image)}
    return any(text.encode() in page for text in written)
