// A program that does not use FFmpeg: nothing can be said about it.
#include <stdio.h>

#ifdef FFMPEG_TEXT
// As a program that FFmpeg is linked into.
const char *volatile ffmpeg_text = FFMPEG_TEXT;
#endif

int main(void)
{
    puts("no FFmpeg here");
    return 0;
}
