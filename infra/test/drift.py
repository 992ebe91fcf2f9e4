"""Reads a plan as JSON: says what it would change but should not, and what it would change as the emulator tells it wrong."""

import json
import sys
from pathlib import Path

# What moto 5.2.1 does not keep, by type of resource and attribute. AWS keeps each of these.
NOT_KEPT = {
    ("aws_vpc_security_group_ingress_rule", "description"): "moto keeps no description of a rule that names a group",
}

plan = json.loads(Path(sys.argv[1]).read_text())
wrong = 0
for resource in plan.get("resource_changes", []):
    change = resource["change"]
    if change["actions"] in (["no-op"], ["read"]):
        continue
    before, after = change["before"] or {}, change["after"] or {}
    unknown = change.get("after_unknown") or {}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name) and not unknown.get(name)]
    if change["actions"] != ["update"]:
        print(f"would {' and '.join(change['actions'])} {resource['address']}")
        wrong += 1
        continue
    for name in names:
        why = NOT_KEPT.get((resource["type"], name))
        if why:
            print(f"ignored: {resource['address']}: {name}: {why}")
        else:
            print(f"would change {resource['address']}: {name}: {before.get(name)!r} to {after.get(name)!r}")
            wrong += 1
if wrong:
    sys.exit(1)
print("ok: a second plan changes nothing")
