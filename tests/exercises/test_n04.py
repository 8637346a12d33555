"""Typical mistakes in the exercises of notebook 04: (answer, outcome, part of the message)."""

MISTAKES = {
    "labels_from_spans": [
        (  # shifts by hand: the loss shifts once more
            """
def labels_from_spans(ids, spans):
    labels = [-100] * len(ids)
    for start, end in spans:
        labels[start - 1 : end - 1] = ids[start:end]
    return labels
""",
            "wrong",
            "the loss does the shift",
        ),
        (  # only the last answer survives
            """
def labels_from_spans(ids, spans):
    for start, end in spans:
        labels = [-100] * start + ids[start:end] + [-100] * (len(ids) - end)
    return labels
""",
            "wrong",
            "every answer is trained",
        ),
        (  # only the answers, without the holes
            """
def labels_from_spans(ids, spans):
    return [i for start, end in spans for i in ids[start:end]]
""",
            "wrong",
            "as many labels as ids",
        ),
        (  # loses the end mark
            """
def labels_from_spans(ids, spans):
    labels = [-100] * len(ids)
    for start, end in spans:
        labels[start : end - 1] = ids[start : end - 1]
    return labels
""",
            "wrong",
            "`end` is the first place after the answer",
        ),
        ("def labels_from_spans(ids, spans): ...", "not attempted", "blank"),
    ],
    "labels_from_markers": [
        (  # stops before the end mark
            """
def labels_from_markers(ids, header, end):
    labels, at = [-100] * len(ids), 0
    while at < len(ids):
        start = at + len(header)
        if ids[at:start] == header and end in ids[start:]:
            stop = ids.index(end, start)
            labels[start:stop] = ids[start:stop]
            at = stop
        else:
            at += 1
    return labels
""",
            "wrong",
            "the end mark of the answer is trained",
        ),
        (  # the header is trained as well
            """
def labels_from_markers(ids, header, end):
    labels = [-100] * len(ids)
    for at in range(len(ids)):
        if ids[at : at + len(header)] == header and end in ids[at:]:
            stop = ids.index(end, at) + 1
            labels[at:stop] = ids[at:stop]
    return labels
""",
            "wrong",
            "the header is masked",
        ),
        (  # only the last answer
            """
def labels_from_markers(ids, header, end):
    places = [at for at in range(len(ids)) if ids[at : at + len(header)] == header]
    if not places or end not in ids[places[-1]:]:
        return [-100] * len(ids)
    start = places[-1] + len(header)
    stop = ids.index(end, start) + 1
    return [-100] * start + ids[start:stop] + [-100] * (len(ids) - stop)
""",
            "wrong",
            "every answer of a conversation",
        ),
        (  # from the first answer to the end of the text
            """
def labels_from_markers(ids, header, end):
    for at in range(len(ids)):
        if ids[at : at + len(header)] == header:
            start = at + len(header)
            return [-100] * start + ids[start:]
    return [-100] * len(ids)
""",
            "wrong",
            "nothing between them",
        ),
        (  # looks at the last token of the header only
            """
def labels_from_markers(ids, header, end):
    labels, on = [], False
    for i in ids:
        labels.append(i if on else -100)
        on = (on or i == header[-1]) and i != end
    return labels
""",
            "wrong",
            "the whole header",
        ),
    ],
    "find_bug": [
        (  # counts only
            """
def find_bug(ids, labels, spans):
    wanted = sum(end - start for start, end in spans)
    found = sum(label != -100 for label in labels)
    if not found:
        return "nothing trained"
    if found > wanted:
        return "prompt trained"
    return "fine" if found == wanted else "end mark lost"
""",
            "wrong",
            "not the id at its own place",
        ),
        (  # looks at the first answer only
            """
def find_bug(ids, labels, spans):
    trained = {place for place, label in enumerate(labels) if label != -100}
    inside = {place for start, end in spans for place in range(start, end)}
    if not trained:
        return "nothing trained"
    if any(labels[place] != ids[place] for place in trained):
        return "shifted"
    if trained - inside:
        return "prompt trained"
    return "fine" if spans[0][1] - 1 in trained else "end mark lost"
""",
            "wrong",
            "the last one too",
        ),
        (  # everything is fine
            'def find_bug(ids, labels, spans): return "fine"',
            "wrong",
            "all -100",
        ),
        ("def find_bug(ids, labels, spans): return True", "wrong", "one of"),
    ],
}
