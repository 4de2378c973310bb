/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VFIO_DMABUF_IMPORTER_H
#define VFIO_DMABUF_IMPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * /dev/vfio_dmabuf_importer: each open of it is an importer in the kernel, which
 * can be attached to one DMABUF and does with it what its ioctls say.
 *
 * The last close gives up all that the importer has, in any state: it signals the
 * fence, unlocks the reservation, unmaps and detaches. The first three begin when
 * the last file descriptor is closed, and do not wait for the last user of the
 * file. So a process that is killed does not wait for itself, in whatever order
 * the kernel closes its files.
 *
 * All ioctls return 0, or -1 with errno: %EINVAL where there is nothing to do it
 * with, as to unmap what is not mapped, %EBUSY where it is done already, %EINTR
 * for a signal, and what is said below.
 */

/**
 * enum vfio_dmabuf_importer_unmap - When to unmap what has been invalidated
 * @VFIO_DMABUF_IMPORTER_UNMAP_DELAYED: From a work item, after a delay.
 * @VFIO_DMABUF_IMPORTER_UNMAP_IOCTL: When %VFIO_DMABUF_IMPORTER_UNMAP says so.
 * @VFIO_DMABUF_IMPORTER_UNMAP_CLOSE: Never before the last close.
 *	%VFIO_DMABUF_IMPORTER_UNMAP fails with %EPERM.
 */
enum vfio_dmabuf_importer_unmap {
	VFIO_DMABUF_IMPORTER_UNMAP_DELAYED,
	VFIO_DMABUF_IMPORTER_UNMAP_IOCTL,
	VFIO_DMABUF_IMPORTER_UNMAP_CLOSE,
};

/**
 * struct vfio_dmabuf_importer_attach - What to attach to, and how to behave
 * @dmabuf_fd: The DMABUF.
 * @unmap: One of enum vfio_dmabuf_importer_unmap.
 * @delay_ms: The delay of %VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, in milliseconds,
 *	0 for at once.
 * @segment: PCI segment of the device that imports.
 * @bus: Number of its bus.
 * @devfn: Its device in bits 7:3 and its function in bits 2:0.
 *
 * The device is what the DMABUF is mapped for, and it takes no part in that: it
 * can be bound to any driver, or to none. The exporter may insist on one that can
 * do DMA to the memory. That is always the case with the device that has it.
 */
struct vfio_dmabuf_importer_attach {
	__s32 dmabuf_fd;
	__u32 unmap;
	__u32 delay_ms;
	__u16 segment;
	__u8 bus;
	__u8 devfn;
};

/**
 * struct vfio_dmabuf_importer_status - What has become of an importer
 * @nr_invalidated: How often it was told to unmap, since it was attached.
 * @mapped: How much it has mapped, in bytes, 0 for nothing.
 */
struct vfio_dmabuf_importer_status {
	__u64 nr_invalidated;
	__u64 mapped;
};

#define VFIO_DMABUF_IMPORTER_TYPE	0xEF

/**
 * VFIO_DMABUF_IMPORTER_ATTACH - Attach to a DMABUF
 *
 * With dma_buf_dynamic_attach(), as an importer that can do without struct pages,
 * and that can be told to unmap.
 *
 * Fails with %ENODEV if there is no such PCI device, and with what dma_buf_get()
 * and the exporter return.
 */
#define VFIO_DMABUF_IMPORTER_ATTACH \
	_IOW(VFIO_DMABUF_IMPORTER_TYPE, 0, struct vfio_dmabuf_importer_attach)

/**
 * VFIO_DMABUF_IMPORTER_DETACH - Give up everything, as the last close does
 */
#define VFIO_DMABUF_IMPORTER_DETACH	_IO(VFIO_DMABUF_IMPORTER_TYPE, 1)

/**
 * VFIO_DMABUF_IMPORTER_MAP - Map the DMABUF for the device, in both directions
 *
 * Fails with what the exporter returns.
 */
#define VFIO_DMABUF_IMPORTER_MAP	_IO(VFIO_DMABUF_IMPORTER_TYPE, 2)

/**
 * VFIO_DMABUF_IMPORTER_UNMAP - Unmap it
 */
#define VFIO_DMABUF_IMPORTER_UNMAP	_IO(VFIO_DMABUF_IMPORTER_TYPE, 3)

/**
 * VFIO_DMABUF_IMPORTER_ADD_FENCE - Add a fence to the DMABUF's reservation
 *
 * It is one of %DMA_RESV_USAGE_BOOKKEEP, so who waits for it waits for all. It
 * says nothing about mappings: there is no need to have one. An importer has one
 * fence that is not signaled.
 */
#define VFIO_DMABUF_IMPORTER_ADD_FENCE	_IO(VFIO_DMABUF_IMPORTER_TYPE, 4)

/**
 * VFIO_DMABUF_IMPORTER_ADD_FAILING_FENCE - Add a fence that cannot be waited for
 *
 * As the one above, but until it is signaled a wait for it fails with %EDEADLK.
 * The module cannot be unloaded any more.
 */
#define VFIO_DMABUF_IMPORTER_ADD_FAILING_FENCE _IO(VFIO_DMABUF_IMPORTER_TYPE, 9)

/**
 * VFIO_DMABUF_IMPORTER_SIGNAL_FENCE - Signal it
 */
#define VFIO_DMABUF_IMPORTER_SIGNAL_FENCE _IO(VFIO_DMABUF_IMPORTER_TYPE, 5)

/**
 * VFIO_DMABUF_IMPORTER_LOCK - Lock the DMABUF's reservation, and keep it locked
 *
 * Returns when it is locked. Until then, and until it is unlocked again, no other
 * ioctl should be used that takes the lock: attach, detach, map, unmap and the
 * addition of a fence.
 */
#define VFIO_DMABUF_IMPORTER_LOCK	_IO(VFIO_DMABUF_IMPORTER_TYPE, 6)

/**
 * VFIO_DMABUF_IMPORTER_UNLOCK - Unlock it
 */
#define VFIO_DMABUF_IMPORTER_UNLOCK	_IO(VFIO_DMABUF_IMPORTER_TYPE, 7)

/**
 * VFIO_DMABUF_IMPORTER_STATUS - Tell what has become of the importer
 *
 * Takes no lock of the DMABUF.
 */
#define VFIO_DMABUF_IMPORTER_STATUS \
	_IOR(VFIO_DMABUF_IMPORTER_TYPE, 8, struct vfio_dmabuf_importer_status)

#endif /* VFIO_DMABUF_IMPORTER_H */
