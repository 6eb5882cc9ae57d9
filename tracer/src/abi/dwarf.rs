//! Offsets of members from the library's debug information, where it has any.
//!
//! Releases have none; a user's own build may have hundreds of megabytes. So only the units that
//! compiled a function of a wanted class are read: they contain the class's complete definition. The
//! first entry of a unit lists the addresses that it compiled. Debug information that lies elsewhere
//! (split DWARF, type units, GCC's link-time optimisation) or is compressed isn't found.

use std::{borrow::Cow, collections::HashMap};

use gimli::{EndianSlice, LittleEndian};
use object::{Object as _, ObjectSection as _};

type Reader<'a> = EndianSlice<'a, LittleEndian>;
type Node<'a, 'b, 'd> = gimli::EntriesTreeNode<'a, 'b, Reader<'d>>;

/// The longest unit that is read, in bytes. TT-Metal's units are smaller; a larger length comes from damaged
/// debug information.
const MAX_UNIT_BYTES: usize = 256 << 20;

/// The namespaces in which classes are looked for.
const NAMESPACE: [&[u8]; 2] = [b"tt", b"tt_metal"];

/// Offsets of data members in bytes, by class (without `tt::tt_metal::`) and name.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(HashMap<String, HashMap<String, i64>>);

impl Members {
    /// Reads the classes of `tt::tt_metal` from the units that compiled the functions at `addresses`.
    /// Debug information that can't be read is skipped.
    pub(super) fn read(library: &[u8], addresses: &[u64]) -> Self {
        let mut members = Self::default();
        // Members that were found before an error are valid.
        members.read_units(library, addresses).ok();
        members
    }

    /// The offset of a member in its class, in bytes.
    pub(super) fn offset(&self, class: &str, member: &str) -> Option<i64> {
        self.0.get(class)?.get(member).copied()
    }

    fn read_units(&mut self, library: &[u8], addresses: &[u64]) -> gimli::Result<()> {
        let Ok(file) = object::File::parse(library) else {
            return Ok(());
        };
        let sections = gimli::DwarfSections::load(|id| {
            let data = file
                .section_by_name(id.name())
                .and_then(|section| section.data().ok());
            Ok::<_, gimli::Error>(Cow::Borrowed(data.unwrap_or_default()))
        })?;
        let dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
        let mut units = dwarf.units();
        while let Some(header) = units.next()? {
            if header.length_including_self() > MAX_UNIT_BYTES {
                continue;
            }
            let Ok(unit) = dwarf.unit(header) else {
                continue;
            };
            let mut ranges = dwarf.unit_ranges(&unit)?;
            let mut wanted = false;
            while let Some(range) = ranges.next()? {
                wanted |= addresses
                    .iter()
                    .any(|address| (range.begin..range.end).contains(address));
            }
            if wanted {
                let mut tree = unit.entries_tree(None)?;
                self.namespace(&dwarf, &unit, tree.root()?, &NAMESPACE)?;
            }
        }
        Ok(())
    }

    /// Descends into the namespaces of `path`, then reads classes.
    fn namespace<'a>(
        &mut self,
        dwarf: &gimli::Dwarf<Reader<'a>>,
        unit: &gimli::Unit<Reader<'a>>,
        node: Node<'_, '_, 'a>,
        path: &[&[u8]],
    ) -> gimli::Result<()> {
        let mut children = node.children();
        while let Some(child) = children.next()? {
            let Some(name) = name(dwarf, unit, child.entry()) else {
                continue;
            };
            match (child.entry().tag(), path) {
                (gimli::DW_TAG_namespace, [first, rest @ ..]) if name == *first => {
                    self.namespace(dwarf, unit, child, rest)?;
                }
                (gimli::DW_TAG_namespace, []) if name == b"distributed" => {
                    let mut classes = child.children();
                    while let Some(class) = classes.next()? {
                        self.class(dwarf, unit, class, "distributed::")?;
                    }
                }
                (_, []) => self.class(dwarf, unit, child, "")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn class<'a>(
        &mut self,
        dwarf: &gimli::Dwarf<Reader<'a>>,
        unit: &gimli::Unit<Reader<'a>>,
        node: Node<'_, '_, 'a>,
        namespace: &str,
    ) -> gimli::Result<()> {
        let entry = node.entry();
        let is_class = matches!(
            entry.tag(),
            gimli::DW_TAG_class_type | gimli::DW_TAG_structure_type
        );
        let Some(class) = name(dwarf, unit, entry).filter(|_| is_class) else {
            return Ok(());
        };
        let class = format!("{namespace}{}", String::from_utf8_lossy(class));
        let mut children = node.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_member {
                continue;
            }
            let offset = entry
                .attr_value(gimli::DW_AT_data_member_location)
                .and_then(|value| value.udata_value())
                .and_then(|offset| i64::try_from(offset).ok());
            let (Some(offset), Some(member)) = (offset, name(dwarf, unit, entry)) else {
                continue;
            };
            self.0
                .entry(class.clone())
                .or_default()
                .entry(String::from_utf8_lossy(member).into_owned())
                .or_insert(offset);
        }
        Ok(())
    }
}

fn name<'a>(
    dwarf: &gimli::Dwarf<Reader<'a>>,
    unit: &gimli::Unit<Reader<'a>>,
    entry: &gimli::DebuggingInformationEntry<Reader<'a>>,
) -> Option<&'a [u8]> {
    let value = entry.attr_value(gimli::DW_AT_name)?;
    Some(dwarf.attr_string(unit, value).ok()?.slice())
}
