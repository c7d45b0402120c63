"""How scenes are rendered."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
SizeRange = tuple[Annotated[float, Field(ge=0.15, le=0.75)], Annotated[float, Field(ge=0.15, le=0.75)]]
LevelRange = tuple[Annotated[float, Field(ge=0.0, le=255.0)], Annotated[float, Field(ge=0.0, le=255.0)]]


class SceneSettings(BaseModel):
    """Knobs of the renderer; the defaults are what the embedded model is trained on. Ranges are (lowest, highest)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(48, ge=32, le=512, description="width and height of the picture, pixels")
    main_size: SizeRange = Field((0.48, 0.60), description="side of the main object, share of the image size")
    small_size: SizeRange = Field((0.27, 0.34), description="side of every other object, share of the image size")
    object_count_shares: tuple[Share, Share, Share] = Field((0.25, 0.40, 0.35), description="share of scenes with one, two and three objects")
    handwritten_share: Share = Field(0.4, description="share of digits (outlined ones aside) that are scikit-learn's handwritten ones, not a font's")
    background_level: LevelRange = Field((12.0, 48.0), description="mean brightness of the background, 0 to 255; closer to 255 lowers the contrast")
    background_contrast: LevelRange = Field((8.0, 18.0), description="amplitude of the background's pattern, 0 to 255")
    colour_jitter: float = Field(18.0, ge=0.0, le=60.0, description="largest deviation of an object's colour from its nominal RGB, 0 to 255")
    pixel_noise: float = Field(4.0, ge=0.0, le=60.0, description="standard deviation of the noise on every pixel, 0 to 255")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in ("main_size", "small_size", "background_level", "background_contrast"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: the lowest value, {low}, is above the highest, {high}")
        if abs(sum(self.object_count_shares) - 1.0) > 1e-6:
            raise ValueError(f"object_count_shares: {list(self.object_count_shares)} should add up to 1")
        if self.small_size[1] > self.main_size[0]:
            raise ValueError(f"small_size: up to {self.small_size[1]}, but no object may be larger than the main one (from {self.main_size[0]})")
        if self.main_size[1] + self.small_size[1] > 0.94 or 2 * self.small_size[1] > 0.94:
            raise ValueError(f"main_size and small_size: {self.main_size[1]} and {self.small_size[1]} leave no room for three objects side by side")
        return self
