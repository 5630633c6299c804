"""All readings: views of any dtype, then products, then functions of elements."""

from jaxtorch.staging.multilinear.operators import (
    convolutions,
    creation,
    indexing,
    products,
    slopes,
    views,
)
from jaxtorch.staging.multilinear.reading import Tables

TABLES = Tables(
    views=views.READINGS | creation.COMPARISONS,
    products=convolutions.READINGS
    | creation.READINGS
    | indexing.READINGS
    | products.READINGS
    | slopes.READINGS,
    functions=dict.fromkeys(slopes.FUNCTIONS, slopes.function),
)
