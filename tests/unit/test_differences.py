from imagelab.differences import differences


def test_equal_parameters_have_no_differences():
    assert differences({"a": [1, {"b": None}]}, {"a": (1, {"b": None})}) == ()


def test_what_is_new_or_gone_is_named_with_its_place():
    was, now = (
        {"loras": {"luca": {"weight": 1.0}}, "controls": [{"scale": 0.5}]},
        {"loras": {}, "controls": [{"scale": 0.6}]},
    )
    assert differences(was, now) == ("loras.luca.weight was 1.0, is None", "controls.0.scale was 0.5, is 0.6")


def test_of_long_texts_the_part_that_differs_is_shown():
    start = "a boy in a striped shirt, " * 20
    (said,) = differences({"prompt": start + "on the beach"}, {"prompt": start + "at home"})
    assert "on the beach" in said
    assert "at home" in said
    assert len(said) < 120
