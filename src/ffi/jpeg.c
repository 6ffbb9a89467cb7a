// Decoding a part of a JPEG with libjpeg-turbo, opened at run time.
//
// Only what is used of the library's interface is declared here: version 6.2 of it, whose layout has not changed since
// 1998 and which jpeg_CreateDecompress checks (version and size of the struct) before anything else.

#include <dlfcn.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JPEG_LIB_VERSION = 62, HEADER_OK = 1, APP1 = 0xe1, MESSAGE_MAX = 200 };
// A progressive picture has about ten; each goes over all of its blocks, however few bytes it takes.
enum { MOST_SCANS = 500 };
enum { JCS_GRAYSCALE = 1, JCS_RGB = 2, JCS_YCBCR = 3, JCS_CMYK = 4, JCS_YCCK = 5 };

typedef struct decompress decompress;

typedef struct {
    void (*error_exit)(decompress *);
    void (*emit_message)(decompress *, int level);
    void (*output_message)(decompress *);
    void (*format_message)(decompress *, char *buffer);
    void (*reset_error_mgr)(decompress *);
    int msg_code;
    union {
        int i[8];
        char s[80];
    } msg_parm;
    int trace_level;
    long num_warnings;
    const char *const *jpeg_message_table;
    int last_jpeg_message;
    const char *const *addon_message_table;
    int first_addon_message;
    int last_addon_message;
} error_mgr;

typedef struct {
    const uint8_t *next_input_byte;
    size_t bytes_in_buffer;
    void (*init_source)(decompress *);
    int (*fill_input_buffer)(decompress *);
    void (*skip_input_data)(decompress *, long n);
    int (*resync_to_restart)(decompress *, int desired);
    void (*term_source)(decompress *);
} source_mgr;

typedef struct {
    void (*progress_monitor)(decompress *);
    long pass_counter, pass_limit;
    int completed_passes, total_passes;
} progress_mgr;

typedef struct marker {
    struct marker *next;
    uint8_t marker;
    unsigned original_length, data_length;
    uint8_t *data;
} marker;

struct decompress {
    error_mgr *err;
    void *mem;
    progress_mgr *progress;
    void *client_data;
    int is_decompressor, global_state;
    source_mgr *src;
    unsigned image_width, image_height;
    int num_components, jpeg_color_space, out_color_space;
    unsigned scale_num, scale_denom;
    double output_gamma;
    int buffered_image, raw_data_out, dct_method, do_fancy_upsampling, do_block_smoothing;
    int quantize_colors, dither_mode, two_pass_quantize, desired_number_of_colors;
    int enable_1pass_quant, enable_external_quant, enable_2pass_quant;
    unsigned output_width, output_height;
    int out_color_components, output_components, rec_outbuf_height, actual_number_of_colors;
    void *colormap;
    unsigned output_scanline;
    int input_scan_number;
    unsigned input_iMCU_row;
    int output_scan_number;
    unsigned output_iMCU_row;
    void *coef_bits, *quant_tbl_ptrs[4], *dc_huff_tbl_ptrs[4], *ac_huff_tbl_ptrs[4];
    int data_precision;
    void *comp_info;
    int progressive_mode, arith_code;
    uint8_t arith_dc_L[16], arith_dc_U[16], arith_ac_K[16];
    unsigned restart_interval;
    int saw_JFIF_marker;
    uint8_t JFIF_major_version, JFIF_minor_version, density_unit;
    uint16_t X_density, Y_density;
    int saw_Adobe_marker;
    uint8_t Adobe_transform;
    int CCIR601_sampling;
    marker *marker_list;
    int max_h_samp_factor, max_v_samp_factor, min_DCT_scaled_size;
    unsigned total_iMCU_rows;
    void *sample_range_limit;
    int comps_in_scan;
    void *cur_comp_info[4];
    unsigned MCUs_per_row, MCU_rows_in_scan;
    int blocks_in_MCU, MCU_membership[10], Ss, Se, Ah, Al, unread_marker;
    void *master, *main, *coef, *post, *inputctl, *marker_reader, *entropy, *idct, *upsample, *cconvert, *cquantize;
};

static struct {
    error_mgr *(*std_error)(error_mgr *);
    void (*create)(decompress *, int version, size_t size);
    void (*destroy)(decompress *);
    void (*save_markers)(decompress *, int code, unsigned limit);
    int (*read_header)(decompress *, int require_image);
    int (*start)(decompress *);
    unsigned (*read_scanlines)(decompress *, uint8_t **rows, unsigned n);
    unsigned (*skip_scanlines)(decompress *, unsigned n);
    void (*crop_scanline)(decompress *, unsigned *x, unsigned *width);
    void (*abort_)(decompress *);
    int (*resync)(decompress *, int desired);
} lib;

// A decoder, reused from picture to picture by one thread.
typedef struct {
    decompress cinfo;
    error_mgr err;
    source_mgr src;
    progress_mgr progress;
    jmp_buf failed;
    char message[MESSAGE_MAX];
    // The first complaint about data that could still be decoded.
    char warning[MESSAGE_MAX];
} jpeg;

typedef struct {
    uint32_t width, height;
    // Channels that nepa_jpeg_read gives: 3, or 4 for CMYK.
    uint32_t channels;
    // The APP1 payload with Exif data, if there is one.
    const uint8_t *exif;
    size_t exif_len;
    // The APP1 payload with XMP data, if there is one.
    const uint8_t *xmp;
    size_t xmp_len;
    // How much of the file the header takes.
    size_t header_len;
} jpeg_info;

static void on_error(decompress *c) {
    jpeg *j = c->client_data;
    c->err->format_message(c, j->message);
    longjmp(j->failed, 1);
}

static void on_message(decompress *c, int level) {
    if (level >= 0) return;
    jpeg *j = c->client_data;
    if (c->err->num_warnings++ == 0) c->err->format_message(c, j->warning);
}

static void nothing(decompress *c) { (void)c; }

static void fail(decompress *c, const char *message) {
    jpeg *j = c->client_data;
    snprintf(j->message, MESSAGE_MAX, "%s", message);
    longjmp(j->failed, 1);
}

static int on_end(decompress *c) {
    fail(c, "the file is truncated");
    return 0;
}

static void on_skip(decompress *c, long n) {
    if (n <= 0) return;
    if ((size_t)n > c->src->bytes_in_buffer) fail(c, "the file is truncated");
    c->src->next_input_byte += n;
    c->src->bytes_in_buffer -= n;
}

static void on_progress(decompress *c) {
    if (c->input_scan_number > MOST_SCANS) fail(c, "it has too many scans");
}

// Opens the library; null, or what is wrong with it (static).
const char *nepa_jpeg_open(const char *path) {
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return "it cannot be opened";
#define FIND(field, name) \
    if (!(*(void **)&lib.field = dlsym(handle, name))) return "it has no " name
    FIND(std_error, "jpeg_std_error");
    FIND(create, "jpeg_CreateDecompress");
    FIND(destroy, "jpeg_destroy_decompress");
    FIND(save_markers, "jpeg_save_markers");
    FIND(read_header, "jpeg_read_header");
    FIND(start, "jpeg_start_decompress");
    FIND(read_scanlines, "jpeg_read_scanlines");
    FIND(skip_scanlines, "jpeg_skip_scanlines");
    FIND(crop_scanline, "jpeg_crop_scanline");
    FIND(abort_, "jpeg_abort_decompress");
    FIND(resync, "jpeg_resync_to_restart");
#undef FIND
    return NULL;
}

void nepa_jpeg_free(jpeg *j) {
    if (!j) return;
    lib.destroy(&j->cinfo);
    free(j);
}

// A decoder, or null when the library is of another version.
jpeg *nepa_jpeg_new(void) {
    jpeg *volatile j = calloc(1, sizeof *j);
    if (!j) return NULL;
    j->cinfo.err = lib.std_error(&j->err);
    j->err.error_exit = on_error;
    j->err.emit_message = on_message;
    j->err.output_message = nothing;
    j->cinfo.client_data = j;
    if (setjmp(j->failed)) {
        free(j);
        return NULL;
    }
    lib.create((decompress *)&j->cinfo, JPEG_LIB_VERSION, sizeof(decompress));
    j->cinfo.client_data = j;
    lib.save_markers(&j->cinfo, APP1, 0xffff);
    j->src = (source_mgr){NULL, 0, nothing, on_end, on_skip, lib.resync, nothing};
    j->cinfo.src = &j->src;
    j->progress.progress_monitor = on_progress;
    j->cinfo.progress = &j->progress;
    return j;
}

// Reads the header; null, or what is wrong (valid until the decoder's next use).
const char *nepa_jpeg_header(jpeg *j, const uint8_t *bytes, size_t len, jpeg_info *info) {
    decompress *c = &j->cinfo;
    j->warning[0] = 0;
    j->err.num_warnings = 0;
    if (setjmp(j->failed)) {
        lib.abort_(c);
        return j->message;
    }
    j->src.next_input_byte = bytes;
    j->src.bytes_in_buffer = len;
    lib.read_header(c, 1);
    int four = c->jpeg_color_space == JCS_CMYK || c->jpeg_color_space == JCS_YCCK;
    c->out_color_space = four ? JCS_CMYK : JCS_RGB;
    memset(info, 0, sizeof *info);
    info->width = c->image_width;
    info->height = c->image_height;
    info->channels = four ? 4 : 3;
    info->header_len = len - j->src.bytes_in_buffer;
    static const char exif[] = "Exif\0", xmp[] = "http://ns.adobe.com/xap/1.0/";
    for (marker *m = c->marker_list; m; m = m->next) {
        if (m->marker != APP1) continue;
        if (!info->exif && m->data_length > sizeof exif && !memcmp(m->data, exif, sizeof exif)) {
            info->exif = m->data + sizeof exif;
            info->exif_len = m->data_length - sizeof exif;
        }
        if (!info->xmp && m->data_length > sizeof xmp && !memcmp(m->data, xmp, sizeof xmp)) {
            info->xmp = m->data + sizeof xmp;
            info->xmp_len = m->data_length - sizeof xmp;
        }
    }
    return NULL;
}

// After the header: decodes rows y … y + height − 1 into `out`, whose rows begin at a column that is at most x and hold
// at least the columns up to x + width. On entry *left = x and *columns = width; on return the first column and the
// number of columns that a row of `out` has. `out` takes `capacity` bytes. All of these are of the picture at 1/reduction
// of its size.
const char *nepa_jpeg_read(jpeg *j, uint32_t reduction, uint32_t *left, uint32_t *columns, uint32_t y, uint32_t height,
                           uint8_t *out, size_t capacity) {
    decompress *c = &j->cinfo;
    if (setjmp(j->failed)) {
        lib.abort_(c);
        return j->message;
    }
    c->scale_num = 1;
    c->scale_denom = reduction;
    lib.start(c);
    unsigned x0 = *left, width = *columns;
    if (width < c->output_width) {
        // Smooth upsampling looks at the neighbouring column; at the edge of what is decoded there is none.
        unsigned end = x0 + width < c->output_width ? x0 + width + 1 : c->output_width;
        x0 = x0 > 0 ? x0 - 1 : 0;
        width = end - x0;
        lib.crop_scanline(c, &x0, &width);
    }
    *left = x0;
    *columns = c->output_width;
    size_t stride = (size_t)c->output_width * c->output_components;
    if (stride * height > capacity) fail(c, "internal: the buffer for the picture is too small");
    if (y > 0) lib.skip_scanlines(c, y);
    for (unsigned row = 0; row < height;) {
        uint8_t *rows[4];
        unsigned n = height - row < 4 ? height - row : 4;
        for (unsigned i = 0; i < n; i++) rows[i] = out + stride * (row + i);
        row += lib.read_scanlines(c, rows, n);
    }
    lib.abort_(c);
    return NULL;
}

// Gives up on a picture whose header was read.
void nepa_jpeg_abort(jpeg *j) { lib.abort_(&j->cinfo); }

// The first complaint about the last picture that did not stop its decoding, or an empty text.
const char *nepa_jpeg_warning(const jpeg *j) { return j->warning; }
