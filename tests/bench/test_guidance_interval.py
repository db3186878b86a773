"""What guidance at a part of the steps costs and saves, on the puppets."""

from drawn_quality import draw_by_turns

from imagelab.benchmark import paired_ratio

INTERVALS = ((0.0, 1.0), (0.0, 0.75), (0.0, 0.5), (0.25, 1.0), (0.25, 0.75), (0.0, 0.04))
PICTURES = 24
HALF, MOST = (0.0, 0.5), 0.9  # guidance at half of the steps takes so much of the time at most


def test_guidance_at_half_of_the_steps_takes_nine_tenths_of_the_time_at_most(generator, tmp_path, keep):
    ways = {(start, stop): {"guidance_start": start, "guidance_stop": stop} for start, stop in INTERVALS}
    seen = draw_by_turns(generator, tmp_path, ways, PICTURES)
    steps, every = generator.profile.preset().steps, seen[INTERVALS[0]]

    def inputs(start, stop):
        return steps + sum(start <= step / steps < stop for step in range(steps))

    keep(
        "guidance-interval-puppet.json",
        f"Guidance between two fractions of the steps alone: {PICTURES} held-out scenes and {PICTURES} pictures of "
        "luca, 128 px, standard preset; by turns, seconds of the CPU",
        facts={"promised_of_the_seconds_at_half_of_the_steps": MOST},
        rows=[
            {"guidance": f"{start:g} to {stop:g}", "inputs of the unet per picture": inputs(start, stop)}
            | seen[start, stop].row(every)
            for start, stop in INTERVALS
        ],
    )
    assert paired_ratio(seen[HALF].seconds, every.seconds).high <= MOST
