//! The types of columns, and the macro that declares a table's columns.
//!
//! Invariant: columns are never null, and reading a row is monomorphic: scans of tag rows are hot.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow_array::builder::GenericByteBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    BinaryType, ByteArrayType, Int64Type, TimestampMillisecondType, UInt32Type, UInt64Type,
    Utf8Type,
};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, GenericByteArray, PrimitiveArray, TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field, TimeUnit};

/// A type of column.
pub trait Column {
    /// The values of one batch.
    type Array: Send + Sync;
    /// Values on their way into a batch.
    type Values: Default + Send;
    /// One value.
    type Value<'a>;

    /// The column's part of the schema.
    fn field(name: &str) -> Field;
    /// Reads a column whose type has been checked.
    fn array(column: &ArrayRef) -> Self::Array;
    /// Value `i` of a column.
    fn value(array: &Self::Array, i: usize) -> Self::Value<'_>;
    /// Appends a value.
    fn push(values: &mut Self::Values, value: Self::Value<'_>);
    /// How many bytes of texts the values have.
    fn text_bytes(_: &Self::Values) -> usize {
        0
    }
    /// The column of the values.
    fn finish(values: Self::Values) -> ArrayRef;
}

/// A column of texts or bytes.
pub struct Varying<B>(PhantomData<B>);
/// A column of texts.
pub(super) type Text = Varying<Utf8Type>;
/// A column of bytes.
pub(super) type Bytes = Varying<BinaryType>;

impl<B: ByteArrayType> Column for Varying<B>
where
    for<'a> &'a B::Native: AsRef<B::Native>,
{
    type Array = GenericByteArray<B>;
    type Values = GenericByteBuilder<B>;
    type Value<'a> = &'a B::Native;

    fn field(name: &str) -> Field {
        Field::new(name, B::DATA_TYPE, false)
    }

    fn array(column: &ArrayRef) -> Self::Array {
        column.as_bytes::<B>().clone()
    }

    fn value(array: &Self::Array, i: usize) -> &B::Native {
        array.value(i)
    }

    fn push(values: &mut Self::Values, value: &B::Native) {
        values.append_value(value);
    }

    fn text_bytes(values: &GenericByteBuilder<B>) -> usize {
        values.values_slice().len()
    }

    fn finish(mut values: Self::Values) -> ArrayRef {
        Arc::new(values.finish())
    }
}

/// A column of numbers.
pub struct Number<P>(PhantomData<P>);
/// A column of signed numbers of 64 bits.
pub(super) type Int64 = Number<Int64Type>;
/// A column of unsigned numbers of 64 bits.
pub(super) type UInt64 = Number<UInt64Type>;
/// A column of unsigned numbers of 32 bits.
pub(super) type UInt32 = Number<UInt32Type>;

impl<P: ArrowPrimitiveType> Column for Number<P> {
    type Array = PrimitiveArray<P>;
    type Values = Vec<P::Native>;
    type Value<'a> = P::Native;

    fn field(name: &str) -> Field {
        Field::new(name, P::DATA_TYPE, false)
    }

    fn array(column: &ArrayRef) -> Self::Array {
        column.as_primitive::<P>().clone()
    }

    fn value(array: &Self::Array, i: usize) -> P::Native {
        array.value(i)
    }

    fn push(values: &mut Self::Values, value: P::Native) {
        values.push(value);
    }

    fn finish(values: Self::Values) -> ArrayRef {
        Arc::new(PrimitiveArray::<P>::new(values.into(), None))
    }
}

/// A column of times in UTC, in milliseconds since 1970.
pub struct TimeMs;

impl Column for TimeMs {
    type Array = TimestampMillisecondArray;
    type Values = Vec<i64>;
    type Value<'a> = i64;

    fn field(name: &str) -> Field {
        Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)
    }

    fn array(column: &ArrayRef) -> Self::Array {
        column.as_primitive::<TimestampMillisecondType>().clone()
    }

    fn value(array: &Self::Array, i: usize) -> i64 {
        array.value(i)
    }

    fn push(values: &mut Self::Values, value: i64) {
        values.push(value);
    }

    fn finish(values: Self::Values) -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC"))
    }
}

/// Implements the part of [`super::table::Table`] that is about columns. It takes the type of the
/// row and, in the order of the file, its fields with the types of their columns. `as` names a
/// column differently from its field.
macro_rules! columns {
    ($row:ident { $($field:ident $(as $name:literal)?: $column:ident),+ $(,)? }) => {
        type Columns = ($(<$column as Column>::Array,)+);
        type Row<'a> = $row<'a>;
        type Builder = ($(<$column as Column>::Values,)+);

        fn fields() -> Vec<arrow_schema::Field> {
            vec![$(<$column as Column>::field([$($name,)? stringify!($field)][0])),+]
        }

        fn columns(batch: &arrow_array::RecordBatch) -> Self::Columns {
            let mut columns = batch.columns().iter().skip(2);
            let mut next = || match columns.next() {
                Some(column) => column,
                None => unreachable!("a batch has all columns: its schema has been checked"),
            };
            ($(<$column as Column>::array(next()),)+)
        }

        fn row(($($field,)+): &Self::Columns, _: KeyHash, i: usize) -> $row<'_> {
            $row { $($field: <$column as Column>::value($field, i)),+ }
        }

        fn builder() -> Self::Builder {
            ($(<$column as Column>::Values::default(),)+)
        }

        fn push(($($field,)+): &mut Self::Builder, row: &$row<'_>) {
            $(<$column as Column>::push($field, row.$field);)+
        }

        fn text_bytes(($($field,)+): &Self::Builder) -> usize {
            [$(<$column as Column>::text_bytes($field)),+].into_iter().sum()
        }

        fn finish(($($field,)+): Self::Builder) -> Vec<arrow_array::ArrayRef> {
            vec![$(<$column as Column>::finish($field)),+]
        }
    };
}
pub(super) use columns;
