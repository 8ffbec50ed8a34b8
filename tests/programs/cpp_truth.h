// truth.h for C++ programs, whose half in C is cpp_truth.inc.
void *cpp_frame(long pts);
void cpp_frame_free(void *frame);
void cpp_frame_lost(void *frame);
void cpp_scrub(void);
int cpp_is_clean(int argc, char **argv);
void cpp_truth_print(void);
