"""A client of the data service: for asyncio, and for those that wait.

async with DataClient("http://shop-db:8080", token) as client:
    result = await client.query("SELECT name, price FROM wares WHERE id = ?", 7, read=True)
    async with client.transaction() as tx:
        await tx.query("UPDATE wares SET price = ? WHERE id = ?", Decimal("12.30"), 7)
"""

from penstock_data.client.asynchronous import DataClient, Rows, Transaction
from penstock_data.client.calls import Named
from penstock_data.client.errors import (
    BadParameter,
    BadRequest,
    BeginAgain,
    Busy,
    Conflict,
    DatabaseRefused,
    DataError,
    Fault,
    Forbidden,
    KeyReused,
    Later,
    LeaseGone,
    Mistake,
    NotAllowed,
    NotFound,
    OutcomeUnknown,
    ResultTooLarge,
    RetryTransaction,
    StatementRefused,
    StreamCut,
    TimedOut,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from penstock_data.client.results import Result, Row
from penstock_data.client.synchronous import SyncDataClient, SyncRows, SyncTransaction
from penstock_data.client.values import Column, Json

__all__ = [
    "BadParameter",
    "BadRequest",
    "BeginAgain",
    "Busy",
    "Column",
    "Conflict",
    "DataClient",
    "DataError",
    "DatabaseRefused",
    "Fault",
    "Forbidden",
    "Json",
    "KeyReused",
    "Later",
    "LeaseGone",
    "Mistake",
    "Named",
    "NotAllowed",
    "NotFound",
    "OutcomeUnknown",
    "Result",
    "ResultTooLarge",
    "RetryTransaction",
    "Row",
    "Rows",
    "StatementRefused",
    "StreamCut",
    "SyncDataClient",
    "SyncRows",
    "SyncTransaction",
    "TimedOut",
    "Transaction",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
]
