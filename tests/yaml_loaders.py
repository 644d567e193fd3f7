"""The parsers of pyyaml that this installation has: in Python, and libyaml's."""

import yaml

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]
