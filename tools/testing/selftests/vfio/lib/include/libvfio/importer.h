/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_IMPORTER_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_IMPORTER_H

#include <linux/types.h>

#include "../../../test_modules/vfio_dmabuf_importer.h"

/*
 * Importers of DMABUFs in the kernel that do what they are told: what each ioctl
 * does is said in vfio_dmabuf_importer.h. Those that fail return a negative errno.
 */

/* Why there are none, or NULL */
const char *importer_missing(void);

int importer_open(void);
void importer_close(int importer);

/* Attach for the device with this BDF. */
int importer_attach(int importer, int dmabuf, const char *bdf,
		    enum vfio_dmabuf_importer_unmap unmap, u32 delay_ms);
int importer_detach(int importer);
int importer_map(int importer);
int importer_unmap(int importer);
int importer_add_fence(int importer);
int importer_add_failing_fence(int importer);
int importer_signal_fence(int importer);
int importer_lock(int importer);
int importer_unlock(int importer);

u64 importer_nr_invalidated(int importer);
u64 importer_mapped(int importer);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_IMPORTER_H */
