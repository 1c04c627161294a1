//! RFC 7541's own examples, the edges of each representation, and another implementation beside ours.

use super::*;
use proptest::prelude::*;

type List = Vec<(Vec<u8>, Vec<u8>)>;
/// A block, its fields, and the size of the table behind it.
type Example = (&'static str, &'static [(&'static str, &'static str)], usize);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<List, Malformed> {
    let mut list = vec![];
    decoder.decode(block, |name, value| list.push((name.to_vec(), value.to_vec())))?;
    Ok(list)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn fields(list: &[(&str, &str)]) -> List {
    list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// Decodes blocks one after the other and compares fields and the size of the table (RFC 7541 appendix C).
#[track_caller]
fn check(blocks: &[Example]) {
    let mut decoder = Decoder::new(4096);
    for (block, expected, size) in blocks {
        assert_eq!(decode(&mut decoder, &hex(block)).unwrap(), fields(expected), "{block}");
        assert_eq!(decoder.table().size(), *size, "{block}");
    }
}

#[test]
fn appendix_c_1_integers() {
    for (value, prefix, bytes) in [(10, 5, vec![10]), (1337, 5, vec![31, 154, 10]), (42, 8, vec![42])] {
        let mut out = vec![];
        integer::encode(value, prefix, 0, &mut out);
        assert_eq!(out, bytes);
        let mut rest = &out[1..];
        assert_eq!(integer::decode(out[0], prefix, &mut rest), Ok(value));
        assert!(rest.is_empty());
    }
}

#[test]
fn appendix_c_2_representations() {
    check(&[(
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        &[("custom-key", "custom-header")],
        55,
    )]);
    check(&[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], 0)]);
    check(&[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 0)]);
    check(&[("82", &[(":method", "GET")], 0)]);
}

const FIRST: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: [(&str, &str); 5] = [FIRST[0], FIRST[1], FIRST[2], FIRST[3], ("cache-control", "no-cache")];
const THIRD: [(&str, &str); 5] =
    [FIRST[0], (":scheme", "https"), (":path", "/index.html"), FIRST[3], ("custom-key", "custom-value")];

#[test]
fn appendix_c_3_requests() {
    check(&[
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &FIRST, 57),
        ("8286 84be 5808 6e6f 2d63 6163 6865", &SECOND, 110),
        ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", &THIRD, 164),
    ]);
}

#[test]
fn appendix_c_4_requests_with_huffman() {
    check(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &FIRST, 57),
        ("8286 84be 5886 a8eb 1064 9cbf", &SECOND, 110),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &THIRD, 164),
    ]);
}

const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const LATER: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const COOKIE: (&str, &str) = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
const PRIVATE: (&str, &str) = ("cache-control", "private");
const FOUND: [(&str, &str); 4] = [(":status", "302"), PRIVATE, DATE, LOCATION];
const TEMPORARY: [(&str, &str); 4] = [(":status", "307"), PRIVATE, DATE, LOCATION];
const OK: [(&str, &str); 6] = [(":status", "200"), PRIVATE, LATER, LOCATION, ("content-encoding", "gzip"), COOKIE];

/// The examples have a table of 256 bytes: the first block begins with the update that says so.
#[test]
fn appendix_c_5_responses_with_eviction() {
    check(&[
        (
            "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
             474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            &FOUND,
            222,
        ),
        ("4803 3330 37c1 c0bf", &TEMPORARY, 222),
        (
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
             6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
             2076 6572 7369 6f6e 3d31",
            &OK,
            215,
        ),
    ]);
}

#[test]
fn appendix_c_6_responses_with_huffman_and_eviction() {
    check(&[
        (
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
             1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &FOUND,
            222,
        ),
        ("4883 640e ffc1 c0bf", &TEMPORARY, 222),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
             dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            &OK,
            215,
        ),
    ]);
}

#[test]
fn broken_blocks() {
    for (name, block) in [
        ("index 0", "80"),
        ("index beyond both tables", "be"),
        ("name beyond both tables", "7e 01 61"),
        ("index without end", "ff"),
        ("index that overflows", "ff ff ff ff ff ff ff ff ff ff 01"),
        ("index of zeros without end", "ff 80 80 80 80 80 00"),
        ("0x3f", "3f"),
        ("update beyond the limit", "3f e2 1f"),
        ("update after a field", "82 20"),
        ("name without end", "00 05 61"),
        ("value without end", "00 01 61 05 61"),
        ("value is missing", "00 01 61"),
        ("length that overflows", "00 7f ff ff ff ff 7f"),
        ("Huffman: padding of a whole byte", "00 82 1f ff 01 61"),
        ("Huffman: padding of zeros", "00 81 18 01 61"),
        ("Huffman: end of string", "00 84 ff ff ff ff 01 61"),
        ("Huffman: a code that ends early", "00 81 fe 01 61"),
    ] {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Err(Malformed), "{name}");
    }
    for (name, block) in [("two updates", "20 3f e1 1f 82"), ("only an update", "20"), ("nothing", "")] {
        assert!(decode(&mut Decoder::new(4096), &hex(block)).is_ok(), "{name}");
    }
}

#[test]
fn every_prefix_of_a_block_is_an_error_or_a_shorter_list() {
    let block = hex("3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff");
    for end in 0..block.len() {
        let result = decode(&mut Decoder::new(4096), &block[..end]);
        assert!(result.is_err() || result.unwrap().len() <= 2);
    }
}

#[test]
fn a_lowered_limit_has_to_be_acknowledged() {
    let mut decoder = Decoder::new(0);
    assert!(decode(&mut decoder, &hex("40 01 61 01 62")).is_ok(), "until then the protocol's size holds");
    assert_eq!(decoder.table().len(), 1);
    decoder.set_limit(0);
    assert_eq!(decode(&mut decoder, &hex("82")), Err(Malformed));
    let mut decoder = Decoder::new(0);
    decoder.set_limit(0);
    assert!(decode(&mut decoder, &hex("20 40 01 61 01 62")).is_ok());
    assert_eq!(decoder.table().len(), 0, "larger than the whole table: it empties it");
    assert_eq!(decode(&mut decoder, &hex("21")), Err(Malformed));
}

#[test]
fn an_entry_may_lend_its_name_to_the_one_that_evicts_it() {
    let mut decoder = Decoder::new(4096);
    // A table of 40 bytes holds one entry of 3 + 32.
    decode(&mut decoder, &hex("3f 09 40 02 61 62 01 63")).unwrap();
    assert_eq!(decode(&mut decoder, &hex("7e 03 64 65 66")), Ok(fields(&[("ab", "def")])));
    assert_eq!(decode(&mut decoder, &hex("be")), Ok(fields(&[("ab", "def")])));
    assert_eq!(decoder.table().len(), 1);
}

#[test]
fn the_encoder_says_once_that_it_uses_no_table() {
    let mut encoder = Encoder::default();
    let block = |encoder: &mut Encoder| {
        let mut out = vec![];
        encoder.begin(5, &mut out);
        encoder.field(b":method", b"CONNECT", &mut out);
        encoder.field(b":status", b"200", &mut out);
        encoder.field(b"forwarded", b"for=1", &mut out);
        out
    };
    let plain = [&hex("03 07")[..], b"CONNECT", &hex("88 00 09"), b"forwarded", &hex("05"), b"for=1"].concat();
    assert_eq!(block(&mut encoder), plain);
    assert!(!encoder.is_needed(5));
    encoder.table_reduced();
    assert_eq!(block(&mut encoder), [&[0x20], &plain[..]].concat());
    assert_eq!(block(&mut encoder), plain);
    assert!(encoder.is_needed(5) && !encoder.is_needed(3));
}

#[test]
fn every_symbol_of_the_huffman_code() {
    // Another implementation encodes nothing with Huffman, but decodes it: each symbol between two others, and alone.
    for symbol in 0..=255_u8 {
        let mut bits = vec![];
        for byte in [b'0', symbol, symbol, b'~'] {
            push_code(&mut bits, byte);
        }
        let bytes = to_bytes(&bits);
        let mut out = vec![];
        huffman::decode(&bytes, &mut out).unwrap();
        assert_eq!(out, [b'0', symbol, symbol, b'~']);
        assert_eq!(loona_hpack::huffman::HuffmanDecoder::new().decode(&bytes).unwrap(), out);
    }
}

/// The code of a symbol, found by trying: the shortest bits that decode to it.
fn push_code(bits: &mut Vec<bool>, symbol: u8) {
    let code = huffman::tests::code_of(symbol);
    bits.extend((0..code.1).rev().map(|bit| code.0 >> bit & 1 == 1));
}

fn to_bytes(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8).map(|chunk| (0..8).fold(0, |byte, at| byte << 1 | u8::from(chunk.get(at) != Some(&false)))).collect()
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![":method", ":authority", "forwarded", "baggage", "traceparent", "x"]);
    prop_oneof![known.prop_map(|name| name.as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..40)]
}

fn any_list() -> impl Strategy<Value = List> {
    prop::collection::vec((any_name(), prop::collection::vec(any::<u8>(), 0..200)), 0..12)
}

proptest! {
    #[test]
    fn integers_round_trip(value in 0_usize..(1 << 27), prefix in 1_u32..=8, pattern in any::<u8>()) {
        let mut out = vec![];
        let pattern = if prefix == 8 { 0 } else { pattern << prefix };
        integer::encode(value, prefix, pattern, &mut out);
        let mut rest = &out[1..];
        prop_assert_eq!(integer::decode(out[0], prefix, &mut rest), Ok(value));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn huffman_agrees_with_another_decoder(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut ours = vec![];
        let result = huffman::decode(&bytes, &mut ours);
        if let (Ok(()), Ok(theirs)) = (result, loona_hpack::huffman::HuffmanDecoder::new().decode(&bytes)) {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn huffman_round_trips(text in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut bits = vec![];
        text.iter().for_each(|byte| push_code(&mut bits, *byte));
        let mut out = vec![];
        huffman::decode(&to_bytes(&bits), &mut out).unwrap();
        prop_assert_eq!(out, text);
    }

    /// Blocks of an encoder that uses the dynamic table, one after the other.
    #[test]
    fn decodes_what_another_encodes(lists in prop::collection::vec(any_list(), 1..8), size in 0_usize..4096) {
        let (mut encoder, mut decoder) = (loona_hpack::Encoder::new(), Decoder::new(4096));
        encoder.set_max_table_size(size);
        let mut update = vec![];
        integer::encode(size, 5, 0x20, &mut update);
        for list in lists {
            let block = encoder.encode(list.iter().map(|(name, value)| (&name[..], &value[..])));
            update.extend(block);
            prop_assert_eq!(decode(&mut decoder, &update), Ok(list));
            update.clear();
        }
    }

    #[test]
    fn another_decodes_what_ours_encodes(list in any_list()) {
        let mut block = vec![];
        let mut encoder = Encoder::default();
        encoder.begin(1, &mut block);
        list.iter().for_each(|(name, value)| encoder.field(name, value, &mut block));
        prop_assert_eq!(decode(&mut Decoder::new(4096), &block), Ok(list.clone()));
        prop_assert_eq!(loona_hpack::Decoder::new().decode(&block).unwrap(), list);
    }

    /// Anything at all: no panic, the table within its limit, and the same fields as another decoder where both find
    /// some.
    #[test]
    fn survives_any_block(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..5)) {
        let (mut ours, mut theirs) = (Decoder::new(4096), loona_hpack::Decoder::new());
        theirs.set_max_allowed_table_size(4096);
        for block in blocks {
            let (list, other) = (decode(&mut ours, &block), theirs.decode(&block));
            prop_assert!(ours.table().size() <= 4096);
            let Ok(list) = list else { break };
            if let Ok(other) = other {
                prop_assert_eq!(list, other);
            } else {
                break;
            }
        }
    }
}
