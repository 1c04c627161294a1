//! Fields of a policy that its messages do not have: those of a newer version. The decoder passes over them, and a
//! policy without a part of it might allow more.

use prost::decode_length_delimiter;

/// The fields of a message: number and, where it is a message that is looked into, its fields.
pub(super) struct Fields(&'static [(u32, Option<&'static Self>)]);

const PATTERN: Fields = Fields(&[(1, None), (2, None), (3, None), (4, None)]);
const ADDRESS: Fields = Fields(&[(1, None), (2, None)]);
const ACCOUNT: Fields = Fields(&[(1, None), (2, None)]);
const MATCH: Fields = Fields(&[
    (1, Some(&PATTERN)),
    (2, Some(&PATTERN)),
    (3, Some(&PATTERN)),
    (4, Some(&PATTERN)),
    (5, Some(&ADDRESS)),
    (6, Some(&ADDRESS)),
    (7, Some(&ADDRESS)),
    (8, Some(&ADDRESS)),
    (9, None),
    (10, None),
    (11, Some(&ACCOUNT)),
    (12, Some(&ACCOUNT)),
    (13, None),
]);
const RULES: Fields = Fields(&[(2, Some(&MATCH))]);
const GROUP: Fields = Fields(&[(1, Some(&RULES))]);
/// Of `istio.security.Authorization`.
pub(super) const AUTHORIZATION: Fields =
    Fields(&[(1, None), (2, None), (3, None), (4, None), (5, Some(&GROUP)), (6, None), (7, None)]);

const STRINGS: Fields = Fields(&[(1, Some(&PATTERN)), (2, Some(&PATTERN))]);
const ACCOUNTS: Fields = Fields(&[(1, Some(&ACCOUNT)), (2, Some(&ACCOUNT))]);
const BLOCKS: Fields = Fields(&[(1, Some(&ADDRESS)), (2, Some(&ADDRESS))]);
const PORTS: Fields = Fields(&[(1, None), (2, None)]);
const SOURCE: Fields = Fields(&[
    (1, Some(&STRINGS)),
    (2, Some(&STRINGS)),
    (3, Some(&ACCOUNTS)),
    (4, Some(&BLOCKS)),
    (5, Some(&STRINGS)),
    (6, None),
]);
const OPERATION: Fields = Fields(&[(1, Some(&PORTS)), (2, None)]);
const CONDITION: Fields = Fields(&[
    (1, Some(&BLOCKS)),
    (2, Some(&STRINGS)),
    (3, Some(&STRINGS)),
    (4, Some(&ACCOUNTS)),
    (5, Some(&STRINGS)),
    (6, Some(&BLOCKS)),
    (7, Some(&PORTS)),
    (8, None),
]);
const RULE: Fields = Fields(&[(1, Some(&SOURCE)), (2, Some(&OPERATION)), (3, Some(&CONDITION))]);
const EXACT: Fields = Fields(&[(1, None), (2, Some(&RULE)), (3, None), (4, None)]);
/// Of `underpass.v1.PolicyExtension`.
pub(super) const POLICY_EXTENSION: Fields = Fields(&[(1, None), (2, Some(&EXACT))]);

/// The number of the first field that is not among `fields`. Of bytes that are no message: nothing, the decoder says it.
pub(super) fn field(bytes: &[u8], fields: &Fields) -> Option<u32> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let number = u32::try_from(key >> 3).ok()?;
        let Some((_, inner)) = fields.0.iter().find(|(known, _)| *known == number) else { return Some(number) };
        let value = match key & 7 {
            0 => varint(&mut rest).map(|_| &[][..])?,
            1 => take(&mut rest, 8)?,
            2 => {
                let length = varint(&mut rest)?;
                take(&mut rest, length)?
            }
            5 => take(&mut rest, 4)?,
            _ => return None,
        };
        if let Some(number) = inner.and_then(|inner| field(value, inner)) {
            return Some(number);
        }
    }
    None
}

/// A length is a varint like any other.
fn varint(rest: &mut &[u8]) -> Option<usize> {
    decode_length_delimiter(rest).ok()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (value, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(value)
}
