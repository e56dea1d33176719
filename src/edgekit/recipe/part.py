"""What every part of a recipe is: no unknown keys, no change after validation, and the types that several parts have."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.spelling import KEYS, translated_keys

SMALL_IMAGE = 64  # at or below this size, the CIFAR settings of SimCLR (appendix B.9) are the defaults


class RecipePart(BaseModel):
    """A part of the recipe: no unknown keys, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, content: Any) -> Any:
        """Accept the keys as recipes spelled them before American spelling."""
        if not isinstance(content, dict):
            return content
        for earlier, name in KEYS.items():
            if name in cls.model_fields and name in content and earlier in content:
                raise ValueError(f"{name} is given twice: {earlier} is its earlier name; keep {name}")
        return translated_keys(content, cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _no_booleans(cls, content: Any) -> Any:
        """Refuse booleans where a number is meant: Python counts True as 1, so `labels: yes` would be one label per class."""
        for name, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(name)
            allowed = (field.annotation, *get_args(field.annotation)) if field is not None else (bool,)
            if isinstance(value, bool) and field is not None and bool not in allowed:
                quote = " (YAML reads yes, no, on and off so: put text in quotes)" if str in allowed else ""
                raise ValueError(
                    f"{name} must not be {str(value).lower()}{quote}, accepted: {field.description or 'a value'}"
                )
        return content


Text = Annotated[str, Field(min_length=1)]
