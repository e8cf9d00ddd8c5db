"""YAML that others wrote: plain values, shallow and written out, settled before anything is built."""

import re

from ...errors import ConfigError
from ...foreign_json import check_letters, without_repeats

MAX_DEPTH = 16


def read_yaml(text: str):
    """Plain values of a YAML text; numbers like 1e-4 are numbers, and no name may appear twice.

    Give it pages, not books: the reader takes 10 s a megabyte. Raises ConfigError for what is no YAML, for anchors and
    aliases, which let a line stand for gigabytes, and for what nests deeper than 16 levels.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and strict about names, references and depth."""

        depth = 0

        def compose_node(self, parent, index):
            event = self.peek_event()
            if event.anchor is not None:
                raise yaml.YAMLError(f"&{event.anchor} and *{event.anchor} are not read here; write the values out")
            if self.depth > MAX_DEPTH:
                raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node, deep=False):
            if isinstance(node, yaml.MappingNode):
                without_repeats([(self.construct_object(key, deep=True), None) for key, _ in node.value])
            return super().construct_mapping(node, deep=deep)

    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        loader = Loader(text)  # looks for characters that YAML does not allow
        values = loader.get_single_data()
        check_letters(values)
        return values
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())[:300]}") from error
