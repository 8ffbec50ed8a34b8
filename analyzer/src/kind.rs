//! What a block is.

/// The type of a live block, as its allocation stack and size tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum ObjectKind {
    /// Not made by FFmpeg, or not known to be.
    Plain,
    /// Made inside FFmpeg for a purpose that is not named here.
    LibavBlock,
    /// Pixels, samples or packet bytes: AVBuffer.data.
    Payload,
    /// A string or array of an AVDictionary, an option, a channel layout: what av_strdup and av_dict_set make.
    DictionaryPart,
    /// AVDictionary.
    Dictionary,
    /// AVFrameSideData or AVPacketSideData.
    SideData,
    /// A pool entry (`BufferPoolEntry`), in avutil ≥ 57 with the AVBuffer inside.
    PoolEntry,
    /// AVBufferPool.
    BufferPool,
    /// AVBuffer.
    Buffer,
    /// AVBufferRef.
    BufferRef,
    /// AVFrame.
    Frame,
    /// AVPacket.
    Packet,
    /// AVIOContext.
    IoContext,
    /// SwsContext.
    SwsContext,
    /// SwrContext.
    SwrContext,
    /// AVFilterContext.
    FilterContext,
    /// AVFilterGraph.
    FilterGraph,
    /// AVCodecParserContext.
    ParserContext,
    /// AVBSFContext.
    BsfContext,
    /// AVCodecContext.
    CodecContext,
    /// AVFormatContext.
    FormatContext,
    /// AVHWDeviceContext or AVHWFramesContext.
    HwContext,
}

impl ObjectKind {
    /// The C type's name, as reports show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "block",
            Self::LibavBlock => "libav block",
            Self::Payload => "payload",
            Self::DictionaryPart => "AVDictionary entries",
            Self::Dictionary => "AVDictionary",
            Self::SideData => "side data",
            Self::PoolEntry => "BufferPoolEntry",
            Self::BufferPool => "AVBufferPool",
            Self::Buffer => "AVBuffer",
            Self::BufferRef => "AVBufferRef",
            Self::Frame => "AVFrame",
            Self::Packet => "AVPacket",
            Self::IoContext => "AVIOContext",
            Self::SwsContext => "SwsContext",
            Self::SwrContext => "SwrContext",
            Self::FilterContext => "AVFilterContext",
            Self::FilterGraph => "AVFilterGraph",
            Self::ParserContext => "AVCodecParserContext",
            Self::BsfContext => "AVBSFContext",
            Self::CodecContext => "AVCodecContext",
            Self::FormatContext => "AVFormatContext",
            Self::HwContext => "hardware context",
        }
    }

    /// Counted under `contexts` in the report's totals.
    pub fn is_context(self) -> bool {
        self >= Self::IoContext
    }

    /// An FFmpeg object in the verdict's sense: lost outermost, it is a leak at level `normal`.
    /// Parts of objects (payload, strings, unnamed blocks) are not; they are counted as blocks.
    pub fn is_object(self) -> bool {
        matches!(self, Self::Dictionary | Self::SideData) || self >= Self::PoolEntry
    }

    /// Made by FFmpeg's libraries.
    pub fn is_libav(self) -> bool {
        self != Self::Plain
    }

    /// Who leads a cycle of lost blocks, and which object of several is shown first: higher leads.
    pub fn rank(self) -> u8 {
        self as u8
    }
}
