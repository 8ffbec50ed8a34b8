// Scales a gray picture to a quarter of its size; returns 0, or a negative error of FFmpeg's.
int thumb_make(int width, int height, int *out_width, int *out_height);
