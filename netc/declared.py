"""What everything declared in a spec has in common: frozen typed fields, and families told apart by `type`."""

import re
from typing import Annotated, Any, Generic, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import (
    CoreSchema,
    no_info_before_validator_function,
    no_info_plain_validator_function,
    simple_ser_schema,
)

from netc.docstrings import texts_of
from netc.errors import did_you_mean, near
from netc.foreign_words import instead, type_instead

T = TypeVar("T", bound="Declared")

# Graphs compute in float32, where numbers far outside become infinite or zero.
SMALLEST, LARGEST = 1e-30, 1e30


def mistake(sentence: str) -> PydanticCustomError:
    """Return an error that a validator raises with a ready sentence."""
    return PydanticCustomError("mistake", "{sentence}", {"sentence": sentence})


def beyond_float32(value: Any) -> str | None:
    """Return what is wrong with a number, or a list of numbers or of such lists, that a graph could not hold."""
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, list) and (problem := beyond_float32(number)):
            return problem
        if isinstance(number, float) and number and not SMALLEST <= abs(number) <= LARGEST:
            limit = f"smaller than {SMALLEST:g}" if abs(number) < SMALLEST else f"larger than {LARGEST:g}"
            return f"{shown(number)} is {limit} in size, beyond what a 32-bit float computes with"
    return None


class Declared(BaseModel):
    """Base of every mapping in the language: the fields of the class are the keys that the user may write.

    The docstring of the class and the texts under its fields are what editors and the pages in `docs` say of them.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=False,
        allow_inf_nan=False,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _name_fields(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report unknown and missing fields by name, together with all other mistakes of this mapping.

        A misspelt field is one mistake, not an unknown and a missing one.
        """
        if not isinstance(data, dict):
            return handler(data)
        required = [name for name, field in cls.model_fields.items() if field.is_required() and name not in data]
        unknown = {key: near(key, cls.model_fields) for key in data if key not in cls.model_fields}
        misspelt = set(unknown.values())
        if cls.model_config.get("extra") == "allow":
            unknown = {key: name for key, name in unknown.items() if name in required}
        try:
            made = handler({key: value for key, value in data.items() if key not in unknown})
            errors = [
                InitErrorDetails(type=mistake(f"{name}: {problem}"), loc=(name,), input=data[name])
                for name in cls.model_fields
                if name in data and (problem := beyond_float32(getattr(made, name)))
            ]
        except ValidationError as error:
            errors = [
                InitErrorDetails(type=mistake(cls._sentence(e)), loc=e["loc"], input=e["input"])
                for e in error.errors()
                if not (e["type"] == "missing" and len(e["loc"]) == 1 and e["loc"][0] in misspelt)
            ]
        if not unknown and not errors:
            return made
        for key in unknown:
            hint = instead(key)
            remedy = f"; {hint}" if hint else did_you_mean(key, cls.model_fields)
            message = f'{cls.called()} has no field "{key}"{remedy}'
            errors.append(InitErrorDetails(type=mistake(message), loc=(key,), input=data[key]))
        raise ValidationError.from_exception_data(cls.__name__, errors)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        properties = handler.resolve_ref_schema(made).get("properties", {})
        for name, text in texts_of(cls).items():
            if name in properties:
                properties[name]["description"] = text
        return made

    @classmethod
    def called(cls) -> str:
        """Return what the user calls such a mapping: the value that chooses it in its family, or the section."""
        for key in ("type", "policy"):
            if key in cls.model_fields and len(names := get_args(cls.model_fields[key].annotation)) == 1:
                return str(names[0])
        return cls.model_config.get("title") or cls.__name__.lower()

    @classmethod
    def _sentence(cls, error: Any) -> str:
        if error["type"] == "missing" and len(error["loc"]) == 1:
            return f'{cls.called()}: the field "{error["loc"][0]}" is required'
        return sentence(error)


class Family(Generic[T]):
    """The classes that a mapping's `type` chooses from, such as all layers or all fillers.

    As an annotation, `Annotated[Layer, LAYERS]`, it makes a field of any of them.

    Args:
        kind: what one of them is called in messages.
        shorthand: whether a plain string stands for `{type: STRING}`.
        key: the field that chooses.
        number: the type that a plain number stands for, and the field that the number is.
    """

    def __init__(
        self, kind: str, shorthand: bool = False, key: str = "type", number: tuple[str, str] | None = None
    ) -> None:
        self.kind, self.shorthand, self.key, self.number = kind, shorthand, key, number
        self.members: dict[str, type[T]] = {}
        self._refused: dict[str, type[T]] = {}

    def add(self, cls: type[T]) -> type[T]:
        """Class decorator: the class serves the one value that its `type` field allows."""
        return self._register(cls, self.members)

    def refuse(self, cls: type[T]) -> type[T]:
        """Class decorator: the class is known for the sake of its refusal, and never offered."""
        return self._register(cls, self._refused)

    def _register(self, cls: type[T], classes: dict[str, type[T]]) -> type[T]:
        (name,) = get_args(cls.model_fields[self.key].annotation)
        if name in self.members or name in self._refused:
            raise AssertionError(f"two classes serve the {self.kind} type {name}")
        classes[name] = cls
        return cls

    def parse(self, value: Any) -> T:
        """Validate a mapping by the class that its `type` names."""
        if isinstance(value, Declared):
            return value  # type: ignore[return-value]
        if self.shorthand and isinstance(value, str):
            value = {self.key: value}
        if self.number is not None and isinstance(value, int | float) and not isinstance(value, bool):
            value = {self.key: self.number[0], self.number[1]: value}
        if not isinstance(value, dict):
            example = f"{{{self.key}: {next(iter(self.members))}}}"
            raise mistake(f"this {self.kind} should be a mapping such as {example}, not {shown(value)}")
        name = value.get(self.key)
        if name is None:
            raise mistake(f'this {self.kind} has no "{self.key}"{did_you_mean("", self.members)}')
        chosen = (self.members.get(name) or self._refused.get(name)) if isinstance(name, str) else None
        if chosen is None:
            word = name if isinstance(name, str) else ""
            hint = type_instead(word) if self.kind == "layer" else None
            remedy = f"; {hint}" if hint else did_you_mean(word, self.members)
            unknown = mistake(f"unknown {self.kind} {self.key} {shown(name)}{remedy}")
            line = InitErrorDetails(type=unknown, loc=(self.key,), input=name)
            raise ValidationError.from_exception_data(self.kind, [line])
        return chosen.model_validate(value)

    @property
    def definition(self) -> str:
        """The name of the family's definition in the JSON Schema of the language."""
        return self.kind.replace(" ", "_")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(self.parse, serialization=simple_ser_schema("any"))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # The members, which are not all known yet, are defined once by netc.schema.
        return {"family": self.definition}


def as_list(value: Any) -> Any:
    """Let a single value stand for a list of one, as in `kernel_size: 5`."""
    return value if isinstance(value, list) or value is None else [value]


class _OneOrMore:
    """The annotation that makes a list of one also writable as its only entry."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(as_list, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        listed = handler(schema)
        return {"anyOf": [listed["items"], listed]} if listed.get("minItems", 0) < 2 else listed


OneOrMore = _OneOrMore()
Integers = Annotated[list[int], OneOrMore]
Names = Annotated[list[str], OneOrMore]


def shown(value: Any) -> str:
    """Return a value as a short text for messages."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def sentence(error: Any) -> str:
    """Turn one of pydantic's errors into a sentence of netc's."""
    kind, value, context = error["type"], shown(error["input"]), error.get("ctx", {})
    is_key = error["loc"][-1:] == ("[key]",)
    field = next((str(part) for part in reversed(error["loc"]) if isinstance(part, str) and part != "[key]"), "value")
    if kind == "mistake":
        return str(context["sentence"])
    if kind in _EXPECTED:
        return f"{field}: expected {_EXPECTED[kind]}, got {value}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        limit = context[bound]
        return f"{field}: must be {words} {f'{limit:g}' if isinstance(limit, float) else limit}, got {value}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        near = did_you_mean(error["input"], allowed) if isinstance(error["input"], str) else ""
        return f"{field}: expected {context['expected']}, got {value}{near if 'mean' in near else ''}"
    if kind == "string_pattern_mismatch":
        what = f"{field}: " if not is_key else ""
        return f"{what}{value} is not a valid name (letters, digits and _ - / only)"
    if kind in ("too_short", "too_long"):
        words = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return (
            f"{field}: needs {words} {'entry' if words.endswith(' 1') else 'entries'}, got {context['actual_length']}"
        )
    if kind == "string_too_short":
        return f"{field}: must not be empty"
    if kind == "string_too_long":
        return f"{field}: must have at most {context['max_length']} characters, got {len(error['input'])}"
    return f"{field}: {error['msg']}, got {value}"
