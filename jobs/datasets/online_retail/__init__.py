"""UCI Online Retail: the lines of a gift wholesaler's invoices as events.

Customer is user, stock code is item, invoice is session; a line is a purchase, or a cancellation
where the invoice number begins with C. Rules and figures stand in the README beside this file.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from jobs.datasets.online_retail.nouns import OTHER, head_noun
from models.columns import REASON, TIME, as_number, as_text, as_time, content_ids

COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
PRODUCT = r"^\d{5}[A-Za-z]*$"
"""Stock codes of things on the shelf; `POST`, `M`, `D`, `BANK CHARGES` and the like are not."""


def adapt(table: pa.Table) -> pa.Table:
    """The lines in contract columns, row for row; `REASON` says which cannot be events.

    Times carry no zone and are the shop's wall clock; they are taken as UTC. There is no line
    number, so the id of an event is a hash of the whole line: lines that are equal in all columns
    are one event.

    Raises:
        ValueError: when a column of the data set is missing.
    """
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(
            f"online_retail: no column {', '.join(missing)}; "
            f"the source has {', '.join(table.column_names)}"
        )
    lines = pl.DataFrame(table.select(list(COLUMNS)))
    text = {name: as_text(lines[name]) for name in COLUMNS}
    ts = as_time(lines["InvoiceDate"], unit=None).cast(TIME)
    price, quantity = as_number(lines["UnitPrice"]), as_number(lines["Quantity"])
    read = {"InvoiceDate": ts, "UnitPrice": price, "Quantity": quantity}
    events = pl.DataFrame(
        {
            "event_id": content_ids(table.select(list(COLUMNS)), read),
            "ts": ts,
            "user_id": text["CustomerID"],
            "item_id": text["StockCode"].str.to_uppercase(),
            "session_id": text["InvoiceNo"],
            "value": quantity.abs() * price,
            "item_text": text["Description"].str.strip_chars(),
            "item_category": _categories(text["Description"]),
            "item_price": price,
            "context_country": text["Country"],
        }
    )
    cancelled = text["InvoiceNo"].str.starts_with("C")
    return (
        events.with_columns(
            action=pl.when(cancelled).then(pl.lit("cancel")).otherwise(pl.lit("purchase")),
        )
        .with_columns(_reasons(text, price, quantity).alias(REASON))
        .to_arrow(compat_level=pl.CompatLevel.oldest())
    )


def _categories(descriptions: pl.Series) -> pl.Series:
    """The head noun of each description; each distinct one is looked at once."""
    known = {text: head_noun(text) for text in descriptions.unique().to_list() if text is not None}
    return descriptions.replace_strict(known, default=OTHER, return_dtype=pl.String)


def _reasons(text: dict[str, pl.Series], price: pl.Series, quantity: pl.Series) -> pl.Series:
    """Why a line is no event, or null; the first rule that it breaks."""
    lines = pl.DataFrame(
        {
            "customer": text["CustomerID"],
            "code": text["StockCode"],
            "cancelled": text["InvoiceNo"].str.starts_with("C"),
            "price": price,
            "quantity": quantity,
        }
    )
    back = pl.col("cancelled") != (pl.col("quantity") < 0)
    reason = (
        pl.when(pl.col("customer").is_null())
        .then(pl.lit("no customer"))
        .when(~pl.col("code").str.contains(PRODUCT).fill_null(False))
        .then(pl.lit("not a product (postage, fees, manual lines)"))
        .when((pl.col("price") > 0).fill_null(False).not_())
        .then(pl.lit("price not above zero"))
        .when((pl.col("quantity") != 0).fill_null(False).not_())
        .then(pl.lit("no quantity"))
        .when(back.fill_null(True))
        .then(pl.lit("quantity and invoice disagree on whether this is a cancellation"))
    )
    return lines.select(reason.alias(REASON)).to_series()
