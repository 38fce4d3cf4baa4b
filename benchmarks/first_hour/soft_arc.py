"""A margin of one's own: ``facezoo --import soft_arc train FACES --margin soft_arc``, from this folder."""

# job: an own margin trained
import facezoo


@facezoo.register_margin(
    "soft_arc", title="Soft arc", formula="s·(cos θ_y - m·(1 - cos θ_y)/2)", paper="unpublished", scale=32.0
)
def soft_arc(batch, *, margin=0.4):
    return batch.target - margin * (1 - batch.target) / 2
