//! The embedded kernel programs: the node's, which go through aya once, and the template of each pod's.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map as AyaMap, MapData};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use underpass_abi::limits::TEMPLATE;
use underpass_abi::{Cookie, Map, VERSION};

use crate::error::{Error, ObjectError, Result};
use crate::pin::Pins;
use crate::sys;

/// The program of which every pod has its own copy.
pub(crate) const STEER: &str = "steer";

/// The kernel programs as they were built: with `log` those that log their decisions. A build of the version after this one has
/// programs of its own, and none that log.
///
/// # Errors
/// [`Error::NoObject`] or [`Error::NoLogObject`] where user space was built without them.
pub fn object(log: bool) -> Result<&'static [u8]> {
    if log { log_object() } else { silent_object() }
}

fn silent_object() -> Result<&'static [u8]> {
    #[cfg(underpass_object)]
    return Ok(aya::include_bytes_aligned!(env!("UNDERPASS_OBJECT")));
    #[cfg(not(underpass_object))]
    return Err(Error::NoObject);
}

fn log_object() -> Result<&'static [u8]> {
    #[cfg(underpass_log_object)]
    return Ok(aya::include_bytes_aligned!(env!("UNDERPASS_LOG_OBJECT")));
    #[cfg(not(underpass_log_object))]
    return Err(Error::NoLogObject);
}

/// `ld_imm64` (linux/bpf.h: BPF_LD | BPF_DW | BPF_IMM): two instructions that hold the halves of a constant.
const LOAD_CONSTANT: u8 = 0x18;

/// The program that steers one pod, with its maps resolved, and where in it the pod's cookie goes.
pub(crate) struct Template {
    instructions: Vec<bpf_insn>,
    places: Vec<usize>,
    /// Open maps, whose descriptors the instructions name.
    _maps: Vec<OwnedFd>,
}

impl Template {
    /// Resolves the pinned maps. Of a build with a log also those of `logging`, the programs of the node, that are not pinned: the
    /// log and its texts. Any other build has no static data here.
    pub(crate) fn new(object: &[u8], pins: &Pins, logging: Option<&Ebpf>) -> Result<Self> {
        let mut object = Object::parse(object).map_err(ObjectError::from)?;
        let steer = object.programs.get(STEER).ok_or(ObjectError::NoProgram(STEER))?;
        let key = (steer.section_index, steer.address);
        // The other programs refer to data that is not pinned; functions in .text stay, because this one may call them.
        let other_programs: HashSet<usize> =
            object.programs.values().map(|program| program.section_index).filter(|section| *section != key.0).collect();
        object.programs.retain(|name, _| name == STEER);
        object.functions.retain(|(section, _), _| !other_programs.contains(section));
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).chain([key.0]).collect();

        let mut open = Vec::new();
        for map in Map::ALL {
            let data = MapData::from_pin(pins.map(VERSION, map)).map_err(Error::map("open", map.name()))?;
            open.push((map.name(), descriptor(&data, map.name())?));
        }
        for (name, map) in logging.into_iter().flat_map(Ebpf::maps) {
            if let AyaMap::Array(data) | AyaMap::RingBuf(data) = map {
                open.push((name, descriptor(data, "map of the log")?));
            }
        }
        let mut resolved = Vec::new();
        for (name, descriptor) in &open {
            let definition = object.maps.get(*name).ok_or_else(|| ObjectError::NoMap((*name).to_owned()))?.clone();
            resolved.push((*name, descriptor.as_raw_fd(), definition));
        }
        let resolved = resolved.iter().map(|(name, descriptor, definition)| (*name, *descriptor, definition));
        object.relocate_maps(resolved, &sections).map_err(ObjectError::from)?;
        object.relocate_calls(&sections).map_err(ObjectError::from)?;
        let function = object.functions.get(&key).ok_or(ObjectError::NoProgram(STEER))?;
        let instructions = function.instructions.clone();
        let places = places(&instructions).ok_or(ObjectError::NoPlace)?;
        Ok(Self { instructions, places, _maps: open.into_iter().map(|(_, descriptor)| descriptor).collect() })
    }

    /// Loads the program of one pod.
    pub(crate) fn load(&self, pod: Cookie) -> Result<OwnedFd> {
        let mut instructions = self.instructions.clone();
        let (low, high) = halves(pod.0);
        for &place in &self.places {
            if let [first, second, ..] = &mut instructions[place..] {
                (first.imm, second.imm) = (low, high);
            }
        }
        // Names of programs have 15 bytes: the low half of the cookie tells which pod it is.
        let name = CString::new(format!("{STEER}_{:x}", pod.0 as u32)).unwrap_or_default();
        sys::load_sk_lookup(&name, &instructions).map_err(Error::system("load", format!("program {STEER} of {pod:?}")))
    }
}

fn descriptor(map: &MapData, name: &'static str) -> Result<OwnedFd> {
    map.fd().as_fd().try_clone_to_owned().map_err(Error::system("copy the descriptor of", name))
}

/// The halves of a 64-bit constant, as instructions hold them.
fn halves(value: u64) -> (i32, i32) {
    (value as u32 as i32, (value >> 32) as u32 as i32)
}

/// Where [`TEMPLATE`] is loaded. `None` where it is nowhere, or where one of its halves is somewhere else too, so that
/// putting a cookie there would not be all, or would be too much.
fn places(instructions: &[bpf_insn]) -> Option<Vec<usize>> {
    let (low, high) = halves(TEMPLATE);
    let places: Vec<usize> = instructions
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| {
            matches!(pair, [first, second] if first.code == LOAD_CONSTANT && first.imm == low && second.imm == high)
        })
        .map(|(place, _)| place)
        .collect();
    let halves_seen = instructions.iter().filter(|instruction| [low, high].contains(&instruction.imm)).count();
    (!places.is_empty() && halves_seen == 2 * places.len()).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, imm: i32) -> bpf_insn {
        bpf_insn { code, imm, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(0, 0), off: 0 }
    }

    fn check(instructions: &[(u8, i32)], expected: Option<&[usize]>) {
        let instructions: Vec<_> = instructions.iter().map(|(code, imm)| instruction(*code, *imm)).collect();
        assert_eq!(places(&instructions).as_deref(), expected);
    }

    #[test]
    fn the_cookies_place_is_unambiguous() {
        let (low, high) = halves(TEMPLATE);
        check(&[(0xb7, 1), (LOAD_CONSTANT, low), (0, high), (0x95, 0)], Some(&[1]));
        check(&[(LOAD_CONSTANT, low), (0, high), (LOAD_CONSTANT, low), (0, high)], Some(&[0, 2]));
        check(&[(0xb7, 1), (0x95, 0)], None);
        check(&[(LOAD_CONSTANT, low), (0, 7)], None);
        check(&[(LOAD_CONSTANT, low), (0, high), (0xb7, low)], None);
        check(&[(LOAD_CONSTANT, low), (0, high), (0xb7, high)], None);
        check(&[(0xb7, low), (0, high)], None);
    }

    /// Without the kernel programs, the command that is missing is named.
    #[cfg(not(underpass_object))]
    #[test]
    fn a_build_without_programs_names_the_command_that_builds_them() {
        let error = object(false).expect_err("no object was embedded");
        assert!(matches!(error, Error::NoObject) && error.to_string().contains("cargo xtask build-ebpf"));
    }

    /// The same of those that log: they are not what is loaded instead.
    #[cfg(not(underpass_log_object))]
    #[test]
    fn a_build_without_programs_that_log_names_the_command_that_builds_them() {
        let error = object(true).expect_err("no object was embedded");
        assert!(matches!(error, Error::NoLogObject) && error.to_string().contains("cargo xtask build-ebpf"));
    }

    /// The embedded object is the one that this build's abi describes. Besides the maps of the abi there is only the data
    /// that the loader writes before it loads: the bits of the mark. Of a log it has no map, no code and no word.
    #[cfg(underpass_object)]
    #[test]
    fn the_embedded_programs_have_the_maps_of_the_abi_and_no_log() {
        let bytes = object(false).expect("it was embedded");
        check_object(bytes, &[".rodata"]);
        assert_eq!(functions(bytes), ["memcpy", "memmove", "memset"]);
        assert!(!mentions_log(bytes));
    }

    /// The other one is the same with a log.
    #[cfg(underpass_log_object)]
    #[test]
    fn the_programs_that_log_have_a_log_besides() {
        let bytes = object(true).expect("it was embedded");
        check_object(bytes, &[".rodata", "AYA_LOGS"]);
        let functions = functions(bytes);
        assert!(functions.len() == 4 && functions.iter().any(|name| name.contains("log")), "{functions:?}");
        assert!(mentions_log(bytes));
    }

    /// Do symbols, texts or debug information name the library of the log?
    #[cfg(any(underpass_object, underpass_log_object))]
    fn mentions_log(object: &[u8]) -> bool {
        let lower = object.to_ascii_lowercase();
        lower.windows(7).any(|window| window == b"aya_log" || window == b"aya-log")
    }

    /// What the programs may call: everything in `.text`.
    #[cfg(any(underpass_object, underpass_log_object))]
    fn functions(object: &[u8]) -> Vec<String> {
        let object = Object::parse(object).expect("an object");
        let programs: HashSet<_> = object.programs.values().map(|program| program.section_index).collect();
        let functions = object.functions.into_iter().filter(|((section, _), _)| !programs.contains(section));
        let mut names: Vec<_> = functions.map(|(_, function)| function.name).collect();
        names.sort_unstable();
        names
    }

    #[cfg(any(underpass_object, underpass_log_object))]
    fn check_object(object: &[u8], others_expected: &[&str]) {
        let object = Object::parse(object).expect("an object");
        for map in Map::ALL {
            let found = object.maps.get(map.name()).unwrap_or_else(|| panic!("no map {}", map.name()));
            let sizes = (found.key_size() as usize, found.value_size() as usize);
            assert_eq!((sizes, found.max_entries()), (map.sizes(), map.limit()), "{}", map.name());
        }
        let mut others: Vec<_> =
            object.maps.keys().filter(|name| Map::ALL.iter().all(|map| map.name() != **name)).collect();
        others.sort_unstable();
        assert_eq!(others, others_expected);
        let mut programs: Vec<_> = object.programs.keys().map(String::as_str).collect();
        programs.sort_unstable();
        assert_eq!(programs, ["bind4", "bind6", "connect4", "connect6", "guard", "on_tcp", "stamp", STEER]);
        let steer = &object.programs[STEER];
        let function = &object.functions[&(steer.section_index, steer.address)];
        assert!(places(&function.instructions).is_some());
    }

    #[test]
    fn halves_are_the_constant() {
        assert_eq!(halves(0xffff_fffe_8000_0001), (0x8000_0001_u32 as i32, -2));
    }
}
