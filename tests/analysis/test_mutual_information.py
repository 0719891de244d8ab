import math
from collections import Counter

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from racecar.analysis import (
    bin_activations,
    entropy,
    information_plane,
    mutual_information,
    pattern_ids,
)

INT64 = torch.iinfo(torch.int64)
BITS = 1e-9  # tolerance
# All 12-bit inputs, one row each.
INPUTS = (torch.arange(4096)[:, None] >> torch.arange(12)) & 1
BITS_OF_TWO = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])

any_int = st.integers(INT64.min, INT64.max)
few_ints = st.one_of(st.integers(-2, 3), st.sampled_from([INT64.min, INT64.max, 2**40]))


def pairs_of_ids(values=few_ints):
    return st.lists(st.tuples(values, values), min_size=1, max_size=60).map(lambda rows: torch.tensor(rows).T)


def counter_entropy(rows):
    counts = Counter(map(tuple, rows.tolist()))
    return -sum(c / len(rows) * math.log2(c / len(rows)) for c in counts.values())


def assert_same_partition(ids, rows):
    """Equal ids exactly where rows are equal: the map from row to id is a bijection."""
    pairs = set(zip(ids.tolist(), map(tuple, rows.tolist()), strict=True))
    assert len(pairs) == len({i for i, _ in pairs}) == len({row for _, row in pairs})


def approx(bits):
    return pytest.approx(bits, abs=BITS)


class TestBins:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_edges_and_beyond(self, dtype):
        values = torch.tensor([-math.inf, -7, -1, -0.9375, -0.5, -0.25, 0, 0.5, 1, 7, math.inf], dtype=dtype)
        assert bin_activations(values, bins=4).tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3]

    def test_thirty_bins_of_tanh_by_default(self):
        centres = torch.linspace(-1, 1, 61)[1::2]
        assert bin_activations(centres).tolist() == list(range(30))
        # Zero is an edge; a value just below is in the lower bin, however close.
        assert bin_activations(torch.tensor([-1.0, 0.0, -1e-30, 1.0])).tolist() == [0, 15, 14, 29]

    def test_float64_values_are_not_rounded(self):
        edge = torch.tensor([-0.6, 0.2], dtype=torch.float64)
        assert bin_activations(edge - 1e-12, bins=10).tolist() == [1, 5]
        assert bin_activations(edge + 1e-12, bins=10).tolist() == [2, 6]

    def test_one_bin(self):
        assert bin_activations(torch.arange(-7.0, 8).reshape(3, 5), bins=1).tolist() == [[0] * 5] * 3

    def test_other_range(self):
        values = torch.tensor([9.9, 10.0, 14.9, 15.0, 20.0])
        assert bin_activations(values, bins=2, low=10, high=20).tolist() == [0, 0, 0, 1, 1]

    def test_shape_dtype_layout_and_gradient(self):
        values = torch.linspace(-1, 1, 30).reshape(2, 3, 5).requires_grad_()
        codes = bin_activations(values)
        assert codes.shape == values.shape
        assert codes.dtype == torch.int64
        assert torch.equal(bin_activations(values.mT), codes.mT)

    def test_nan_says_where(self):
        values = torch.zeros(3, 4, 2)
        values[1, 2, 0] = values[2, 0, 1] = math.nan
        with pytest.raises(ValueError, match=r"2 NaN.*\[1, 2, 0\]"):
            bin_activations(values)


class TestPatternIds:
    @settings(deadline=None)
    @given(st.integers(1, 6).flatmap(lambda u: st.lists(st.lists(few_ints, min_size=u, max_size=u), min_size=1)))
    def test_same_id_exactly_for_same_row(self, rows):
        codes = torch.tensor(rows)
        assert_same_partition(pattern_ids(codes), codes)

    @pytest.mark.parametrize("units", [1, 10, 12, 13, 14, 64, 200])
    @pytest.mark.parametrize("bins", [2, 30, 256])
    def test_wide_layers_are_exact(self, units, bins):
        generator = torch.Generator().manual_seed(units)
        codes = torch.randint(0, bins, (2, 200, units), generator=generator)
        # Repeated rows, and rows apart from another in one unit only, first, middle or last.
        codes[:, 100:150] = codes[:, :50]
        for row, unit in [(150, 0), (151, units // 2), (152, units - 1)]:
            codes[:, row] = codes[:, 0]
            codes[:, row, unit] = (codes[:, row, unit] + 1) % bins
        for ids, rows in zip(pattern_ids(codes), codes, strict=True):
            assert_same_partition(ids, rows)
            assert entropy(ids).item() == approx(counter_entropy(rows))

    def test_wide_layer_of_all_inputs(self):
        # 200 units with all the information in the first or the last 12: a radix that wraps loses one end.
        for position in (slice(0, 12), slice(188, 200)):
            codes = torch.full((4096, 200), 29)
            codes[:, position] = INPUTS * 29
            assert pattern_ids(codes).unique().numel() == 4096

    def test_blocks_of_samples_do_not_mix(self):
        codes = torch.randint(0, 2, (3, 2, 50, 70), generator=torch.Generator().manual_seed(0))
        codes[..., 3:67] = 1  # past int64, with repeated rows
        ids = pattern_ids(codes)
        assert ids.shape == (3, 2, 50)
        assert ids.dtype == torch.int64
        for member in range(3):
            for snapshot in range(2):
                assert_same_partition(ids[member, snapshot], codes[member, snapshot])

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32])
    def test_small_dtypes_do_not_wrap(self, dtype):
        codes = INPUTS.to(dtype)
        assert pattern_ids(codes).unique().numel() == 4096


class TestEntropy:
    @pytest.mark.parametrize(
        ("ids", "bits"),
        [([5], 0), ([7] * 9, 0), ([0, 1], 1), ([3, -3, 3, 3], 2 - 0.75 * math.log2(3)), (range(4096), 12)],
    )
    def test_closed_forms(self, ids, bits):
        assert entropy(torch.tensor(list(ids))).item() == approx(bits)

    def test_constant_is_exactly_zero(self):
        for samples in (3, 7, 49, 1000):
            assert entropy(torch.full((samples,), 4)).item() == 0.0

    @settings(deadline=None)
    @given(st.lists(few_ints, min_size=1, max_size=200))
    def test_agrees_with_scipy(self, ids):
        counts = list(Counter(ids).values())
        assert entropy(torch.tensor(ids)).item() == approx(float(scipy.stats.entropy(counts, base=2)))

    def test_neighbouring_blocks_do_not_merge(self):
        ids = torch.tensor([[[0, 0], [0, 0]], [[0, 1], [1, 1]]])
        assert entropy(ids).tolist() == [[0, 0], [1, 0]]

    def test_float64_and_input_left_alone(self):
        ids = torch.tensor([2, 1, 2])
        assert entropy(ids).dtype == torch.float64
        assert ids.tolist() == [2, 1, 2]


class TestMutualInformation:
    def test_xor(self):
        a, b = BITS_OF_TWO
        y = a ^ b
        assert mutual_information(a, y).item() == approx(0)
        assert mutual_information(b, y).item() == approx(0)
        assert mutual_information(pattern_ids(torch.stack([a, b], -1)), y).item() == approx(1)

    def test_independent_is_zero_and_never_below(self):
        for m in range(2, 12):
            a, b = torch.cartesian_prod(torch.arange(m), torch.arange(7)).T
            bits = mutual_information(a, b).item()
            assert bits >= 0
            assert bits == approx(0)

    @pytest.mark.parametrize("flipped", [0, 1, 3, 8])
    def test_label_behind_a_noisy_channel(self, flipped):
        # Of each bit value's 16 samples `flipped` carry the other label: I = 1 - h(flipped / 16).
        bit = torch.arange(32) // 16
        label = torch.where(torch.arange(32) % 16 < flipped, 1 - bit, bit)
        p = flipped / 16
        noise = -sum(q * math.log2(q) for q in (p, 1 - p) if q)
        assert mutual_information(bit, label).item() == approx(1 - noise)

    @settings(deadline=None)
    @given(pairs_of_ids())
    def test_agrees_with_sklearn(self, pair):
        a, b = pair
        # Small labels for sklearn, as it builds a contingency table by numpy's own rules.
        small = [ids.unique(return_inverse=True)[1].tolist() for ids in pair]
        expected = mutual_info_score(*small) / math.log(2)
        assert mutual_information(a, b).item() == approx(expected)

    @settings(deadline=None)
    @given(pairs_of_ids(any_int | few_ints))
    def test_bounds_and_symmetry(self, pair):
        a, b = pair
        bits = mutual_information(a, b).item()
        assert 0 <= bits <= min(entropy(a).item(), entropy(b).item()) + BITS
        assert mutual_information(b, a).item() == approx(bits)
        assert mutual_information(a, a).item() == approx(entropy(a).item())

    @settings(deadline=None)
    @given(pairs_of_ids(st.integers(0, 7)), st.permutations(range(8)), st.integers(0, 2**32))
    def test_relabelling_and_sample_order_do_not_matter(self, pair, names, seed):
        a, b = pair
        order = torch.randperm(a.numel(), generator=torch.Generator().manual_seed(seed))
        renamed = (torch.tensor(names) * (2**60) - 2**62)[a]
        expected = mutual_information(a, b).item()
        assert mutual_information(renamed, b).item() == approx(expected)
        assert mutual_information(a[order], b[order]).item() == approx(expected)

    @settings(deadline=None)
    @given(pairs_of_ids(st.integers(0, 7)), st.lists(st.integers(0, 7), min_size=8, max_size=8))
    def test_processing_adds_nothing(self, pair, function):
        a, b = pair
        processed = torch.tensor(function)[a]
        assert mutual_information(processed, b).item() <= mutual_information(a, b).item() + BITS

    @pytest.mark.parametrize(
        ("a", "b", "leading"),
        [((3, 1), (2,), (3, 2)), ((), (2, 3), (2, 3)), ((4,), (4,), (4,)), ((), (), ())],
    )
    def test_broadcast_equals_a_loop(self, a, b, leading):
        generator = torch.Generator().manual_seed(0)
        a_ids = torch.randint(0, 5, (*a, 40), generator=generator)
        b_ids = torch.randint(0, 2**62, (*b, 40), generator=generator) // 2**60
        bits = mutual_information(a_ids, b_ids)
        assert bits.shape == leading
        a_flat = a_ids.expand(*leading, 40).reshape(-1, 40)
        b_flat = b_ids.expand(*leading, 40).reshape(-1, 40)
        loop = [mutual_information(i, j).item() for i, j in zip(a_flat, b_flat, strict=True)]
        assert bits.flatten().tolist() == approx(loop)


class TestInformationPlane:
    def test_constant_layer_knows_nothing(self):
        i_x, i_y = information_plane(torch.full((7, 3), 0.3), torch.arange(7))
        assert (i_x.item(), i_y.item()) == (0, 0)

    def test_identity_knows_everything(self):
        label = INPUTS.sum(1) % 2
        i_x, i_y = information_plane(INPUTS * 2.0 - 1, label)
        assert i_x.item() == approx(12)
        assert i_y.item() == approx(1)

    def test_copy_of_one_bit(self):
        layer = INPUTS[:, 3:4] * 1.6 - 0.8
        for label, bits in [(INPUTS[:, 3], 1), (INPUTS[:, 4], 0), (INPUTS[:, 3] & INPUTS[:, 4], None)]:
            i_x, i_y = information_plane(layer, label)
            assert i_x.item() == approx(1)
            # AND of two bits: h(1/4) - 1/2 h(1/2), from one of them.
            assert i_y.item() == approx(2 - 0.75 * math.log2(3) - 0.5 if bits is None else bits)

    def test_bins_and_range_are_used(self):
        layer = torch.arange(8.0)[:, None]
        labels = torch.arange(8) // 4
        for bins, bits in [(1, 0), (2, 1), (4, 2), (8, 3)]:
            i_x, i_y = information_plane(layer, labels, bins=bins, low=0, high=8)
            assert (i_x.item(), i_y.item()) == approx((bits, min(bits, 1)))

    def test_members_and_snapshots_equal_a_loop(self):
        generator = torch.Generator().manual_seed(1)
        layer = torch.randn(3, 2, 100, 2, generator=generator).tanh()
        labels = torch.randint(0, 2, (100,), generator=generator)
        inputs = torch.randint(0, 9, (100,), generator=generator)
        for x_ids in (None, inputs):
            planes = torch.stack(information_plane(layer, labels, x_ids=x_ids, bins=5))
            assert planes.shape == (2, 3, 2)
            for member in range(3):
                for snapshot in range(2):
                    alone = information_plane(layer[member, snapshot], labels, x_ids=x_ids, bins=5)
                    assert planes[:, member, snapshot].tolist() == approx([bits.item() for bits in alone])

    def test_by_the_definition(self):
        generator = torch.Generator().manual_seed(2)
        layer = torch.randn(300, 2, generator=generator).tanh()
        labels = torch.randint(0, 2, (300,), generator=generator)
        patterns = [str(row) for row in bin_activations(layer, bins=4).tolist()]
        i_x, i_y = information_plane(layer, labels, bins=4)
        assert i_x.item() == approx(mutual_info_score(list(range(300)), patterns) / math.log(2))
        assert i_y.item() == approx(mutual_info_score(patterns, labels.tolist()) / math.log(2))

    def test_distinct_inputs_given_change_nothing(self):
        layer = torch.linspace(-2, 2, 300).sin().reshape(2, 50, 3)
        labels = torch.arange(50) % 2
        implied = information_plane(layer, labels)
        given_ids = information_plane(layer, labels, x_ids=torch.arange(50))
        torch.testing.assert_close(implied, given_ids)

    def test_repeated_inputs_of_a_noisy_layer(self):
        # The layer is a fair coin within each input: it has 1 bit, none of it about the input.
        layer = torch.tensor([[-0.5], [0.5], [-0.5], [0.5]])
        i_x, i_y = information_plane(layer, torch.tensor([0, 1, 0, 1]), x_ids=torch.tensor([8, 8, 9, 9]))
        assert (i_x.item(), i_y.item()) == approx((0, 1))


LAYER, LABELS = torch.zeros(2, 4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bin_activations(LABELS), "activations have dtype torch.int64"),
        (lambda: bin_activations(LAYER.to(torch.complex64)), "dtype torch.complex64"),
        (lambda: bin_activations(LAYER, bins=0), "bins is 0"),
        (lambda: bin_activations(LAYER, low=1, high=1), "low is 1 and high is 1"),
        (lambda: bin_activations(LAYER, low=2, high=-2), "low < high"),
        (lambda: bin_activations(LAYER, low=-math.inf), "finite"),
        (lambda: bin_activations(LAYER, high=math.nan), "finite"),
        (lambda: pattern_ids(LAYER), "codes has dtype torch.float32"),
        (lambda: pattern_ids(LABELS), r"codes has shape \(4,\); pass a non-empty \[..., samples, units\]"),
        (lambda: pattern_ids(LABELS[:, None][:, :0]), r"codes has shape \(4, 0\)"),
        (lambda: entropy(LAYER), "ids has dtype torch.float32"),
        (lambda: entropy(torch.tensor(3)), r"ids has shape \(\); pass a non-empty \[..., samples\]"),
        (lambda: entropy(LABELS[:0]), r"ids has shape \(0,\)"),
        (lambda: mutual_information(LAYER, LABELS), "a_ids has dtype"),
        (lambda: mutual_information(LABELS, LAYER), "b_ids has dtype"),
        (lambda: mutual_information(LABELS, LABELS[:3]), "4 and 3 samples"),
        (lambda: mutual_information(LABELS, LABELS[:1]), "4 and 1 samples"),
        (lambda: mutual_information(LAYER.long(), LAYER.long()[:, :3].mT.mT), r"do not broadcast"),
        (lambda: information_plane(LAYER[0, 0], LABELS), r"activations have shape \(3,\)"),
        (lambda: information_plane(LAYER, LABELS[:3]), "'activations': 4, 'labels': 3"),
        (lambda: information_plane(LAYER, LABELS[None]), r"labels have shape \(1, 4\)"),
        (lambda: information_plane(LAYER, LABELS.float()), "labels has dtype torch.float32"),
        (lambda: information_plane(LAYER, LABELS, x_ids=LABELS[:1]), "'x_ids': 1"),
        (lambda: information_plane(LAYER, LABELS, x_ids=LABELS.expand(3, 4)), "do not broadcast"),
        (lambda: information_plane(LAYER, LABELS, bins=0), "bins is 0"),
        (lambda: information_plane(LAYER / 0, LABELS), r"24 NaN, the first at index \[0, 0, 0\]"),
    ],
)
def test_wrong_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
