// A program that does not use FFmpeg: nothing can be said about it.
#include <stdio.h>

int main(void)
{
    puts("no FFmpeg here");
    return 0;
}
