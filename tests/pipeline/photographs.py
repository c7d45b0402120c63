"""A folder of real photographs: crops of the two that scikit-learn ships, with questions of our own."""

import csv
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

# (photograph, left, top, width, height, answer, category, style, colour); pixels. Wide, tall and square.
CROPS = (
    ("china", 0, 0, 640, 427, "two", "building", "wide", "blue"),
    ("china", 120, 60, 300, 300, "one", "building", "square", "red"),
    ("china", 300, 40, 200, 380, "red", "building", "tall", "red"),
    ("china", 0, 0, 320, 160, "blue", "sky", "wide", "blue"),
    ("china", 60, 0, 160, 240, "blue", "sky", "tall", "blue"),
    ("china", 380, 140, 220, 220, "three", "building", "square", "red"),
    ("flower", 0, 0, 640, 427, "one", "plant", "wide", "red"),
    ("flower", 150, 40, 360, 360, "red", "plant", "square", "red"),
    ("flower", 220, 20, 180, 400, "one", "plant", "tall", "red"),
    ("flower", 0, 0, 240, 120, "green", "leaf", "wide", "green"),
    ("flower", 420, 150, 200, 200, "green", "leaf", "square", "green"),
    ("flower", 0, 100, 120, 300, "yes", "leaf", "tall", "green"),
)
QUESTIONS = ("What is the main object in the image? Answer with one word.", "What is the colour of the main object? Answer with one word.")


def photographs(folder: Path) -> Path:
    """Write the crops as JPEG and PNG with a manifest."""
    folder.mkdir(parents=True)
    whole = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "question", "answer", "category", "style", "looks_colour"])
        for number, (name, left, top, width, height, answer, category, style, colour) in enumerate(CROPS):
            ending = "jpg" if number % 2 else "png"
            Image.fromarray(whole[name][top : top + height, left : left + width]).save(folder / f"{number:02d}.{ending}")
            rows.writerow([f"{name}-{number:02d}", f"{number:02d}.{ending}", QUESTIONS[number % 2], answer, category, style, colour])
    return folder
