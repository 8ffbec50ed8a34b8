//! What FFmpeg's functions allocate: the table that typing rests on.
//!
//! Checked block by block in running programs with avutil 57 (Debian 12), 58 and 60 (PyAV's wheels). The rules for avutil 56
//! and for builds that inline more follow the sources and have not met such a program yet.
//!
//! Two traps: `av_realloc` and `av_realloc_array` jump to realloc instead of calling it, so that their frame is missing; and
//! compilers that may inline exported functions make av_frame_alloc part of av_frame_clone, av_buffer_create part of
//! av_buffer_alloc.

use super::Doubt;
use crate::kind::ObjectKind;

/// The way from malloc out to a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// Bytes of the block.
    pub size: u64,
    /// The outermost allocation helper; `None`: a jump to realloc, or an inlined helper.
    pub helper: Option<Helper>,
    /// Static functions passed over.
    pub statics: usize,
}

/// What an allocation helper is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helper {
    /// One new object, or anything: av_malloc, av_mallocz (av_calloc jumps to it).
    Object,
    /// An array, often one that grows.
    Array,
    /// A copy of something.
    Copy,
    /// A string.
    Text,
}

/// What a function is to typing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// Allocates for whoever calls.
    Helper(Helper),
    /// Makes known things.
    Maker(Maker),
    /// Not exported: its caller says more.
    Static,
    /// Exported, and known for nothing here.
    Other,
}

/// Functions by what they make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    Frame,
    FrameClone,
    /// Those that copy a frame's properties, where side data is made by static functions (avutil ≥ 60).
    FrameParts,
    BufferCreate,
    BufferRef,
    BufferData,
    Pool,
    PoolGet,
    FrameSideData,
    PacketSideData,
    Dictionary,
    Packet,
    PacketClone,
    /// Pixels or samples without an AVBuffer.
    Image,
    IoContext,
    Parser,
    /// A context that begins with an AVClass; its private data is made beside it.
    Context(ObjectKind),
    /// Frame threads copy the codec context with av_memdup.
    OpenCodec,
}

/// sizeof(AVBufferRef), all versions.
const REF: u64 = 24;
/// sizeof(AVBuffer): avutil ≥ 57.
const BUFFER: u64 = 48;
/// sizeof(AVBuffer) and sizeof(BufferPoolEntry) of avutil 56.
const BUFFER_56: u64 = 40;
/// sizeof(BufferPoolEntry): avutil ≥ 57, with the AVBuffer inside.
const POOL_ENTRY: u64 = 88;
/// sizeof(AVFrameSideData), all versions.
const FRAME_SIDE_DATA: u64 = 40;
/// sizeof(AVDictionary), and of an array of one AVDictionaryEntry.
const DICTIONARY: u64 = 16;
/// AVFrame has 400 to 540 bytes; the arrays beside it are smaller but for dozens of channels.
const SMALLEST_FRAME: u64 = 300;
/// AVPacket has 80 to 104 bytes.
const PACKET: std::ops::RangeInclusive<u64> = 72..=160;
/// The smallest context, AVHWDeviceContext, has 48 bytes.
const SMALLEST_CONTEXT: u64 = 40;

/// What `name` is, a linker name of a function in libav.
pub(super) fn function(name: &str) -> Function {
    // `av_dict_set.part.0`, `pool_alloc_buffer.isra.0`: pieces that the compiler cut.
    let name = name.split('.').next().unwrap_or(name);
    if let Some(helper) = helper(name) {
        return Function::Helper(helper);
    }
    if let Some(maker) = maker(name) {
        return Function::Maker(maker);
    }
    const EXPORTED: [&str; 13] = [
        "av_",
        "avpriv_",
        "avutil_",
        "avcodec_",
        "avformat_",
        "avio_",
        "avfilter_",
        "avdevice_",
        "avsubtitle_",
        "sws_",
        "swr_",
        "pp_",
        "postproc_",
    ];
    if EXPORTED.iter().any(|prefix| name.starts_with(prefix)) { Function::Other } else { Function::Static }
}

fn helper(name: &str) -> Option<Helper> {
    Some(match name {
        "av_malloc" | "av_mallocz" => Helper::Object,
        "av_calloc"
        | "av_malloc_array"
        | "av_mallocz_array"
        | "av_realloc"
        | "av_realloc_f"
        | "av_realloc_array"
        | "av_reallocp"
        | "av_reallocp_array"
        | "av_fast_realloc"
        | "av_fast_malloc"
        | "av_fast_mallocz"
        | "av_fast_padded_malloc"
        | "av_fast_padded_mallocz"
        | "av_dynarray_add"
        | "av_dynarray_add_nofree"
        | "av_dynarray2_add" => Helper::Array,
        "av_memdup" => Helper::Copy,
        "av_strdup" | "av_strndup" | "av_asprintf" | "av_append_path_component" | "av_bprint_finalize" => Helper::Text,
        _ => return None,
    })
}

fn maker(name: &str) -> Option<Maker> {
    use ObjectKind as Kind;
    Some(match name {
        "av_frame_alloc" => Maker::Frame,
        "av_frame_clone" => Maker::FrameClone,
        "av_frame_ref" | "av_frame_replace" | "av_frame_copy_props" | "av_frame_make_writable" => Maker::FrameParts,
        "av_frame_new_side_data"
        | "av_frame_new_side_data_from_buf"
        | "av_frame_side_data_new"
        | "av_frame_side_data_add"
        | "av_frame_side_data_clone" => Maker::FrameSideData,
        "av_buffer_create" => Maker::BufferCreate,
        "av_buffer_ref" | "av_buffer_replace" => Maker::BufferRef,
        "av_buffer_alloc" | "av_buffer_allocz" | "av_buffer_realloc" | "av_buffer_make_writable" => Maker::BufferData,
        "av_buffer_pool_init" | "av_buffer_pool_init2" => Maker::Pool,
        "av_buffer_pool_get" => Maker::PoolGet,
        "av_packet_alloc" => Maker::Packet,
        "av_packet_clone" => Maker::PacketClone,
        "av_packet_add_side_data"
        | "av_packet_side_data_add"
        | "av_packet_side_data_new"
        | "av_stream_add_side_data" => Maker::PacketSideData,
        "av_dict_set" | "av_dict_set_int" | "av_dict_copy" | "av_dict_parse_string" => Maker::Dictionary,
        "av_image_alloc" | "av_samples_alloc" => Maker::Image,
        "avio_alloc_context" => Maker::IoContext,
        "av_parser_init" => Maker::Parser,
        "avcodec_alloc_context3" => Maker::Context(Kind::CodecContext),
        "avformat_alloc_context" => Maker::Context(Kind::FormatContext),
        "sws_alloc_context" => Maker::Context(Kind::SwsContext),
        "swr_alloc" => Maker::Context(Kind::SwrContext),
        "avfilter_graph_alloc" => Maker::Context(Kind::FilterGraph),
        "avfilter_graph_alloc_filter" => Maker::Context(Kind::FilterContext),
        "av_bsf_alloc" => Maker::Context(Kind::BsfContext),
        "av_hwdevice_ctx_alloc" | "av_hwframe_ctx_alloc" => Maker::Context(Kind::HwContext),
        "avcodec_open2" => Maker::OpenCodec,
        _ => return None,
    })
}

impl Path {
    /// A block of FFmpeg's that no maker names.
    pub(super) fn unnamed(&self) -> (ObjectKind, Doubt) {
        match self.helper {
            Some(Helper::Text) => (ObjectKind::DictionaryPart, Doubt::None),
            // Contexts are also made by functions that are not listed: their class says so.
            Some(Helper::Object | Helper::Copy) if self.size >= SMALLEST_CONTEXT => {
                (ObjectKind::LibavBlock, Doubt::Class)
            }
            _ => (ObjectKind::LibavBlock, Doubt::None),
        }
    }

    /// Made as one object, by the function itself.
    fn is_direct_object(&self) -> bool {
        self.statics == 0 && self.helper == Some(Helper::Object)
    }
}

impl Maker {
    /// What it makes along this path.
    pub(super) fn product(self, path: &Path) -> (ObjectKind, Doubt) {
        use ObjectKind as Kind;
        let sure = |kind| (kind, Doubt::None);
        if path.helper == Some(Helper::Text) {
            return sure(Kind::DictionaryPart);
        }
        match (self, path.size) {
            (Self::Frame, _) if path.statics == 0 => sure(Kind::Frame),
            (Self::FrameClone, SMALLEST_FRAME..) if path.is_direct_object() => (Kind::Frame, Doubt::Frame),
            (Self::FrameClone | Self::FrameParts, FRAME_SIDE_DATA) if path.helper == Some(Helper::Object) => {
                sure(Kind::SideData)
            }
            (Self::FrameSideData, FRAME_SIDE_DATA) if path.helper == Some(Helper::Object) => sure(Kind::SideData),
            (Self::PacketSideData, _) => sure(Kind::SideData),
            (Self::BufferCreate | Self::BufferRef | Self::PoolGet, REF) => sure(Kind::BufferRef),
            (Self::BufferCreate, BUFFER | BUFFER_56) => sure(Kind::Buffer),
            (Self::PoolGet, POOL_ENTRY) => sure(Kind::PoolEntry),
            (Self::PoolGet, BUFFER_56) => (Kind::PoolEntry, Doubt::EntryOrBuffer),
            (Self::PoolGet, BUFFER) => sure(Kind::Buffer),
            (Self::BufferData, REF | BUFFER | BUFFER_56) if path.helper == Some(Helper::Object) => {
                (Kind::Payload, Doubt::PayloadOrRef)
            }
            (Self::BufferData | Self::Image, _) => sure(Kind::Payload),
            (Self::Pool, _) => sure(Kind::BufferPool),
            (Self::Dictionary, DICTIONARY) if path.is_direct_object() => sure(Kind::Dictionary),
            (Self::Dictionary, DICTIONARY) if path.helper.is_none() => {
                (Kind::DictionaryPart, Doubt::DictionaryOrEntries)
            }
            (Self::Dictionary, _) => sure(Kind::DictionaryPart),
            (Self::Packet, _) if path.statics == 0 => sure(Kind::Packet),
            (Self::PacketClone, size) if path.is_direct_object() && PACKET.contains(&size) => sure(Kind::Packet),
            (Self::IoContext, SMALLEST_CONTEXT..) if path.statics == 0 => sure(Kind::IoContext),
            (Self::Parser, SMALLEST_CONTEXT..) if path.is_direct_object() => (Kind::ParserContext, Doubt::Parser),
            (Self::Context(kind), SMALLEST_CONTEXT..) if path.helper == Some(Helper::Object) => (kind, Doubt::Class),
            (Self::OpenCodec, 512..) if path.helper == Some(Helper::Copy) => (Kind::CodecContext, Doubt::Class),
            _ => path.unnamed(),
        }
    }
}
