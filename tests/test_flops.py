import pytest

from omfa_jax.models import UNETS
from omfa_jax.scaling.flops import unet_forward


@pytest.mark.parametrize(
    ("height", "width", "teraflops"),
    [(128, 128, 6.761), (128, 96, 4.943), (128, 192, 10.679), (128, 288, 17.261)],
)
def test_sdxl_matches_torchs_counter(height, width, teraflops):
    assert unet_forward(UNETS["sdxl"], height, width).total / 1e12 == pytest.approx(
        teraflops, abs=6e-4
    )


def test_shares_and_text_length():
    flops = unet_forward(UNETS["sdxl"], 128, 96)
    shares = (flops.conv, flops.linear, flops.attention)
    # cross-attention products are counted with attention here, with linear in the published shares
    assert shares[0] / 1e12 == pytest.approx(1.22, abs=0.01)
    one, two = (unet_forward(UNETS["sdxl"], 128, 96, text_tokens=n).total for n in (1, 154))
    assert one / 1e12 == pytest.approx(4.867, abs=1e-3)
    assert two / 1e12 == pytest.approx(5.020, abs=1e-3)
