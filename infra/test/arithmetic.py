"""CloudWatch's metric math, as much of it as the modules use, so that what they say can be computed.

Time is left out: each metric is one figure, or None where there is none.
"""

import re

# The functions and words that may stand in an expression. `FILL(x, REPEAT)` takes the last figure there was: here, none.
KNOWN = {
    "IF": lambda condition, then, otherwise: then if condition else otherwise,
    "FILL": lambda figure, instead: instead if figure is None else figure,
    "REPEAT": None,
    "MAX": max,
}


def result(expressions, wanted, figures):
    """What `wanted`, one of the expressions by their ids, comes to."""
    if wanted in figures:
        return figures[wanted]
    text = re.sub(r"\bAND\b", "and", re.sub(r"\bOR\b", "or", expressions[wanted]))
    names = {name for name in re.findall(r"[A-Za-z_]\w*", text)} - KNOWN.keys() - {"and", "or"}
    values = {name: result(expressions, name, figures) for name in names}
    return eval(text, {"__builtins__": {}}, KNOWN | values)  # The modules' own text, and nothing but arithmetic.


def metrics(alarm):
    """The metrics that an alarm watches."""
    queries = alarm.get("Metrics")
    if not queries:
        return [alarm]
    return [query["MetricStat"]["Metric"] for query in queries if "MetricStat" in query]


def rings(alarm, figures):
    """Whether these figures are over the alarm's threshold. The figure of an alarm without mathematics is `value`."""
    queries = alarm.get("Metrics")
    if queries:
        expressions = {query["Id"]: query["Expression"] for query in queries if "Expression" in query}
        answers = [query["Id"] for query in queries if query.get("ReturnData", True)]
        if len(answers) != 1:
            raise ValueError(f"{alarm['AlarmName']}: an alarm needs one figure, and has {answers}")
        figure = result(expressions, answers[0], figures)
    else:
        figure = figures["value"]
    compared = alarm["ComparisonOperator"]
    if compared == "GreaterThanOrEqualToThreshold":
        return figure >= alarm["Threshold"]
    if compared == "LessThanOrEqualToThreshold":
        return figure <= alarm["Threshold"]
    raise ValueError(f"{alarm['AlarmName']}: {compared} is not known here")
