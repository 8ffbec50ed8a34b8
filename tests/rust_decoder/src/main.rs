//! Decodes, scales and filters the first video stream with ffmpeg-next; prints how many frames of which size.

use ffmpeg_next as ffmpeg;

use ffmpeg::format::Pixel;
use ffmpeg::media::Type;
use ffmpeg::software::scaling::{context::Context, flag::Flags};
use ffmpeg::util::frame::video::Video;

fn main() -> Result<(), ffmpeg::Error> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a video");
    let lost: usize = arguments.next().map_or(0, |number| number.parse().expect("a number of frames to lose"));
    ffmpeg::init()?;
    let mut input = ffmpeg::format::input(&path)?;
    let stream = input.streams().best(Type::Video).ok_or(ffmpeg::Error::StreamNotFound)?;
    let index = stream.index();
    let mut decoder = ffmpeg::codec::context::Context::from_parameters(stream.parameters())?.decoder().video()?;
    let mut scaler =
        Context::get(decoder.format(), decoder.width(), decoder.height(), Pixel::RGB24, 64, 36, Flags::BILINEAR)?;
    let (mut frames, mut bytes) = (0, 0);
    let mut take = |decoder: &mut ffmpeg::decoder::Video| -> Result<(), ffmpeg::Error> {
        loop {
            let mut frame = Video::empty();
            if decoder.receive_frame(&mut frame).is_err() {
                return Ok(());
            }
            let mut small = Video::empty();
            scaler.run(&frame, &mut small)?;
            bytes += small.data(0).len();
            if frames < lost {
                lose(frame);
            }
            frames += 1;
        }
    };
    for (stream, packet) in input.packets() {
        if stream.index() == index {
            decoder.send_packet(&packet)?;
            take(&mut decoder)?;
        }
    }
    decoder.send_eof()?;
    take(&mut decoder)?;
    println!("{frames} frames, {bytes} bytes");
    Ok(())
}

fn lose(frame: Video) {
    std::mem::forget(frame);
}
