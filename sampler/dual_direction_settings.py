"""What a user chooses about the two directions; `strategies.py` makes it of a strategy and the nodes' inputs."""

from dataclasses import dataclass

from .fusion import changes_nothing, guidance_scales


@dataclass(frozen=True)
class DualDirectionSettings:
    """The guider's settings.

    `guidance_min`, `guidance_max`: scale at a direction's own first and last frame (`average` fusion uses their mean);
    `guidance_start`, `guidance_end`: the part of the noise range, 0 (all noise) to 1 (none), with guidance; outside it
    the unconditional half is not computed. `backward_motion`: whether fine-tuned weights are used;
    `temporal_attention`: `rotated` or `own` maps backward; `sequential`: one direction after the other;
    `motion_prior`: the backward direction follows from the forward one and is not computed.
    """

    guidance_min: float = 1.0
    guidance_max: float = 3.0
    fusion: str = "average"
    order_of_work: str = "auto"
    backward_motion: bool = True
    temporal_attention: str = "rotated"
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    sequential: bool = False
    motion_prior: bool = False

    def videos_of_an_evaluation(self) -> int:
        """The largest number of videos that one evaluation takes through the UNet."""
        # Sequential sampling needs the unconditional half whatever the scale is, for CFG++.
        guided = self.sequential or not changes_nothing(
            guidance_scales(self.fusion, 2, self.guidance_min, self.guidance_max)
        )
        return (2 if guided else 1) * (1 if self.sequential or self.motion_prior else 2)
