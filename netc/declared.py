"""What everything declared in a spec has in common: frozen typed fields, and families told apart by `type`."""

from typing import Annotated, Any, Generic, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from netc.errors import did_you_mean

T = TypeVar("T", bound="Declared")


def mistake(sentence: str) -> PydanticCustomError:
    """Return an error that a validator raises with a ready sentence."""
    return PydanticCustomError("mistake", "{sentence}", {"sentence": sentence})


class Declared(BaseModel):
    """Base of every mapping in the language: the fields of the class are the keys that the user may write."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_fields(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report unknown keys with the nearest known one, together with all other mistakes of this mapping."""
        if not isinstance(data, dict) or cls.model_config.get("extra") == "allow":
            return handler(data)
        unknown = [key for key in data if key not in cls.model_fields]
        if not unknown:
            return handler(data)
        errors = [
            InitErrorDetails(
                type=mistake(f'{cls.__name__} has no field "{key}"{did_you_mean(key, cls.model_fields)}'),
                loc=(key,),
                input=data[key],
            )
            for key in unknown
        ]
        try:
            handler({key: value for key, value in data.items() if key in cls.model_fields})
        except ValidationError as error:
            errors += [
                InitErrorDetails(type=mistake(sentence(e)), loc=e["loc"], input=e["input"]) for e in error.errors()
            ]
        raise ValidationError.from_exception_data(cls.__name__, errors)


class Family(Generic[T]):
    """The classes that a mapping's `type` chooses from, such as all layers or all fillers.

    Args:
        kind: what one of them is called in messages.
        shorthand: whether a plain string stands for `{type: STRING}`.
        key: the field that chooses.
    """

    def __init__(self, kind: str, shorthand: bool = False, key: str = "type") -> None:
        self.kind, self._shorthand, self._key = kind, shorthand, key
        self.members: dict[str, type[T]] = {}

    def add(self, cls: type[T]) -> type[T]:
        """Class decorator: the class serves the one value that its `type` field allows."""
        (name,) = get_args(cls.model_fields[self._key].annotation)
        if name in self.members:
            raise AssertionError(f"two classes serve the {self.kind} type {name}")
        self.members[name] = cls
        return cls

    def parse(self, value: Any) -> T:
        """Validate a mapping by the class that its `type` names; for use as a pydantic validator."""
        if isinstance(value, Declared):
            return value  # type: ignore[return-value]
        if self._shorthand and isinstance(value, str):
            value = {self._key: value}
        if not isinstance(value, dict):
            example = f"{{{self._key}: {next(iter(self.members))}}}"
            raise mistake(f"expected a {self.kind} such as {example}, got {shown(value)}")
        name = value.get(self._key)
        if name is None:
            raise mistake(f'this {self.kind} has no "{self._key}"{did_you_mean("", self.members)}')
        if not isinstance(name, str) or name not in self.members:
            nearest = did_you_mean(str(name), self.members)
            unknown = mistake(f"unknown {self.kind} {self._key} {shown(name)}{nearest}")
            line = InitErrorDetails(type=unknown, loc=(self._key,), input=name)
            raise ValidationError.from_exception_data(self.kind, [line])
        return self.members[name].model_validate(value)


def as_list(value: Any) -> Any:
    """Let a single value stand for a list of one, as in `kernel_size: 5`."""
    return value if isinstance(value, list) or value is None else [value]


OneOrMore = BeforeValidator(as_list)
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
    return text if len(text) <= 60 else text[:57] + "..."


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
    field = next((str(part) for part in reversed(error["loc"]) if isinstance(part, str)), "value")
    if kind == "mistake":
        return str(context["sentence"])
    if kind == "missing":
        return f'field "{field}" is required'
    if kind in _EXPECTED:
        return f"{field}: expected {_EXPECTED[kind]}, got {value}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{field}: must be {words} {context[bound]}, got {value}"
    if kind == "literal_error":
        return f"{field}: expected {context['expected']}, got {value}"
    if kind == "string_pattern_mismatch":
        return f"{field}: {value} is not a valid name (letters, digits and _ - / only)"
    if kind == "too_short":
        return f"{field}: needs at least {context['min_length']}, got {context['actual_length']}"
    return f"{field}: {error['msg']}, got {value}"
