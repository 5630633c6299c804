"""Matrix factorizations: cholesky, qr, lu, svd, eigh, eig."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
