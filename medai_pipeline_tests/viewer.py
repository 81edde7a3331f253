"""The viewer of the review page as a test holds it: what its canvas shows, where a point lies, answers that come late."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from playwright.sync_api import Page, Route

# the grey under an image point, as the screen shows it
GREY = """([x, y]) => {
  const { view, canvas } = medaiViewer;
  const [px, py] = view.toScreen([x + 0.5, y + 0.5]).map((value) => Math.floor(value * devicePixelRatio));
  return [...canvas.getContext('2d').getImageData(px, py, 1, 1).data].slice(0, 3);
}"""
_DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def drawn(page: Page) -> None:
    page.evaluate(_DRAWN)


def shown_uid(page: Page) -> str:
    return page.evaluate("medaiViewer.image.uid")


def canvas_pixels(page: Page) -> np.ndarray:
    """The whole canvas as it is, (rows, columns, 3)."""
    drawn(page)
    address = page.evaluate("medaiViewer.canvas.toDataURL('image/png')")
    png = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """An image point in the page's coordinates."""
    box = page.locator("#canvas").bounding_box()
    assert box
    px, py = page.evaluate("([x, y]) => medaiViewer.view.toScreen([x, y])", [x, y])
    return box["x"] + px, box["y"] + py


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()
    drawn(page)


def coloured(page: Page) -> int:
    """How many pixels of the canvas are no grey: heat, letters, the scale."""
    return int((np.ptp(canvas_pixels(page).astype(int), axis=2) > 25).sum())


class Late:
    """Answers that are kept back: `open` lets later ones pass, `let_go` those that wait, too."""

    def __init__(self, page: Page, addresses: str) -> None:
        self.waiting: list[Route] = []
        self.open = False
        page.route(addresses, self._answer)

    def _answer(self, route: Route) -> None:
        if self.open:
            route.continue_()
        else:
            self.waiting.append(route)

    def let_go(self) -> None:
        self.open = True
        for route in self.waiting:
            route.continue_()
        self.waiting.clear()


def forget_frames(page: Page) -> None:
    """The page fetches every image anew."""
    page.evaluate("medaiViewer.frames = new medaiViewer.frames.constructor(medaiViewer.frames.address)")
