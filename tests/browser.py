"""A real browser for tests of pages, and what it tells of a page: its width, and the contrast of its texts."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS = (360, 768, 1280)
"""A phone, a tablet and a laptop, in pixels of CSS."""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: Debian's package `chromium`")

LEAST_CONTRAST = 4.5  # WCAG 2, success criterion 1.4.3


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that runs until the end of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


_FAINT = """
() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const colour = text => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = text;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return { r, g, b, a: a / 255 };
  };
  const over = (top, below) => {
    const mix = key => top.a * top[key] + (1 - top.a) * below[key];
    return { r: mix("r"), g: mix("g"), b: mix("b"), a: 1 };
  };
  const linear = part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const luminance = c => 0.2126 * linear(c.r / 255) + 0.7152 * linear(c.g / 255) + 0.0722 * linear(c.b / 255);
  const paper = element => {
    const colours = [];
    for (let at = element; at; at = at.parentElement) colours.push(colour(getComputedStyle(at).backgroundColor));
    const ground = over(colour(getComputedStyle(document.body).backgroundColor), { r: 255, g: 255, b: 255, a: 1 });
    return colours.reverse().reduce((below, top) => over(top, below), ground);
  };
  const drawn = new Map();
  const shapes = svg => {
    if (!drawn.has(svg)) drawn.set(svg, [...svg.querySelectorAll("path, rect")].map(shape => {
      const style = getComputedStyle(shape);
      const fill = style.fill === "none" || style.opacity === "0" ? null : colour(style.fill);
      return { shape, fill, box: shape.getBoundingClientRect() };
    }).filter(one => one.fill && one.fill.a * one.box.width * one.box.height > 0));
    return drawn.get(svg);
  };
  const behind = (text, box) => {
    let found = paper(text.closest("svg"));
    const x = box.x + box.width / 2, y = box.y + box.height / 2;
    for (const one of shapes(text.closest("svg"))) {
      const before = one.shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
      if (before && one.box.left <= x && x <= one.box.right && one.box.top <= y && y <= one.box.bottom)
        found = over(one.fill, found);
    }
    return found;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [], silent = ["SCRIPT", "STYLE", "TITLE", "DESC", "TEMPLATE", "NOSCRIPT"];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, words = texts.currentNode.textContent.trim();
    if (!words || silent.includes(element.tagName.toUpperCase())) continue;
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    const visible = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!visible || !box.width || !box.height) continue;
    const svg = element.closest("svg");
    const below = svg ? behind(element, box) : paper(element);
    const ink = over(colour(svg ? style.fill : style.color), below);
    const [high, low] = [luminance(ink), luminance(below)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < LEAST) faint.push(`${ratio.toFixed(2)} ${words.slice(0, 40)} (${element.tagName})`);
  }
  return faint;
}
""".replace("LEAST", str(LEAST_CONTRAST))


def faint_texts(tab: Any) -> list[str]:
    """The texts of a page whose contrast with what is behind them is too low, with that contrast."""
    found: list[str] = tab.evaluate(_FAINT)
    return found


def wider_than_the_screen(tab: Any) -> list[str]:
    """What reaches beyond the page's width, if the page scrolls sideways."""
    found: list[str] = tab.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("*")]
            .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
            .map(one => `${one.tagName} ${one.className} ${one.textContent.trim().slice(0, 30)}`)"""
    )
    return found
