/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What becomes of the pieces of a device's memory.
 *
 * The device's name is the one of struct vfio_pci_memory, as a buffer may outlive
 * its device. A buffer goes by the inode number of its DMABUF, as in the events of
 * dma-buf: unlike its name no client can change it.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vfio_pci

#if !defined(_VFIO_PCI_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _VFIO_PCI_TRACE_H

#include <linux/mm.h>
#include <linux/tracepoint.h>

#include "vfio_pci_dmabuf.h"

TRACE_EVENT(vfio_pci_dma_buf_export,
	TP_PROTO(const struct vfio_pci_dma_buf *priv, u64 offset),
	TP_ARGS(priv, offset),

	TP_STRUCT__entry(
		__string(device, priv->memory->name)
		__field(u32, nr_ranges)
		__field(u64, ino)
		__field(u64, offset)
		__field(u64, size)
		__field(u8, bar)
		__field(bool, write_combine)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->nr_ranges = priv->nr_ranges;
		__entry->ino = priv->inode->i_ino;
		__entry->offset = offset;
		__entry->size = priv->dmabuf->size;
		__entry->bar = priv->bar;
		__entry->write_combine = priv->write_combine;
	),

	TP_printk("device=%s bar=%u ino=%llu offset=0x%llx size=0x%llx nr_ranges=%u write_combine=%d",
		  __get_str(device), __entry->bar, __entry->ino, __entry->offset,
		  __entry->size, __entry->nr_ranges, __entry->write_combine)
);

TRACE_EVENT(vfio_pci_dma_buf_revoke,
	TP_PROTO(const struct vfio_pci_dma_buf *priv, bool again, u64 nr_vmas,
		 u64 zap_ns),
	TP_ARGS(priv, again, nr_vmas, zap_ns),

	TP_STRUCT__entry(
		__string(device, priv->memory->name)
		__field(u8, bar)
		__field(bool, again)
		__field(u64, ino)
		__field(u64, nr_vmas)
		__field(u64, zap_ns)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->bar = priv->bar;
		__entry->again = again;
		__entry->ino = priv->inode->i_ino;
		__entry->nr_vmas = nr_vmas;
		__entry->zap_ns = zap_ns;
	),

	TP_printk("device=%s bar=%u ino=%llu again=%d nr_vmas=%llu zap_ns=%llu",
		  __get_str(device), __entry->bar, __entry->ino, __entry->again,
		  __entry->nr_vmas, __entry->zap_ns)
);

DECLARE_EVENT_CLASS(vfio_pci_dma_buf,
	TP_PROTO(const struct vfio_pci_dma_buf *priv),
	TP_ARGS(priv),

	TP_STRUCT__entry(
		__string(device, priv->memory->name)
		__field(u8, bar)
		__field(u64, ino)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->bar = priv->bar;
		__entry->ino = priv->inode->i_ino;
	),

	TP_printk("device=%s bar=%u ino=%llu",
		  __get_str(device), __entry->bar, __entry->ino)
);

DEFINE_EVENT(vfio_pci_dma_buf, vfio_pci_dma_buf_drain,
	TP_PROTO(const struct vfio_pci_dma_buf *priv),
	TP_ARGS(priv)
);

DEFINE_EVENT(vfio_pci_dma_buf, vfio_pci_dma_buf_release,
	TP_PROTO(const struct vfio_pci_dma_buf *priv),
	TP_ARGS(priv)
);

TRACE_EVENT(vfio_pci_dma_buf_drained,
	TP_PROTO(const struct vfio_pci_dma_buf *priv, u64 drain_ns, int ret),
	TP_ARGS(priv, drain_ns, ret),

	TP_STRUCT__entry(
		__string(device, priv->memory->name)
		__field(int, ret)
		__field(u64, ino)
		__field(u64, drain_ns)
		__field(u8, bar)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->ret = ret;
		__entry->ino = priv->inode->i_ino;
		__entry->drain_ns = drain_ns;
		__entry->bar = priv->bar;
	),

	TP_printk("device=%s bar=%u ino=%llu drain_ns=%llu ret=%d",
		  __get_str(device), __entry->bar, __entry->ino, __entry->drain_ns,
		  __entry->ret)
);

TRACE_EVENT(vfio_pci_memory_revoke,
	TP_PROTO(const struct vfio_pci_memory *memory, bool closed, u64 nr_buffers,
		 u64 nr_vmas, u64 zap_ns),
	TP_ARGS(memory, closed, nr_buffers, nr_vmas, zap_ns),

	TP_STRUCT__entry(
		__string(device, memory->name)
		__field(bool, closed)
		__field(u64, nr_buffers)
		__field(u64, nr_vmas)
		__field(u64, zap_ns)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->closed = closed;
		__entry->nr_buffers = nr_buffers;
		__entry->nr_vmas = nr_vmas;
		__entry->zap_ns = zap_ns;
	),

	TP_printk("device=%s closed=%d nr_buffers=%llu nr_vmas=%llu zap_ns=%llu",
		  __get_str(device), __entry->closed, __entry->nr_buffers,
		  __entry->nr_vmas, __entry->zap_ns)
);

TRACE_EVENT(vfio_pci_memory_restore,
	TP_PROTO(const struct vfio_pci_memory *memory, bool enabled),
	TP_ARGS(memory, enabled),

	TP_STRUCT__entry(
		__string(device, memory->name)
		__field(bool, enabled)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->enabled = enabled;
	),

	TP_printk("device=%s enabled=%d", __get_str(device), __entry->enabled)
);

TRACE_EVENT(vfio_pci_fault_failed,
	TP_PROTO(const struct vfio_pci_dma_buf *priv, const struct vm_fault *vmf,
		 const char *reason),
	TP_ARGS(priv, vmf, reason),

	TP_STRUCT__entry(
		__string(device, priv->memory->name)
		__string(reason, reason)
		__field(u64, ino)
		__field(u64, offset)
		__field(unsigned long, address)
		__field(u8, bar)
		__field(bool, write)
	),

	TP_fast_assign(
		__assign_str(device);
		__assign_str(reason);
		__entry->ino = priv->inode->i_ino;
		/*
		 * In an exported buffer. In the BAR for one that was made for a
		 * mapping of it, of which nobody could tell where it starts.
		 */
		__entry->offset = ((u64)vmf->pgoff << PAGE_SHIFT) +
				  offset_in_page(vmf->real_address);
		if (priv->vm_pgoff)
			__entry->offset &= VFIO_PCI_OFFSET_MASK;
		__entry->address = vmf->real_address;
		__entry->bar = priv->bar;
		__entry->write = vmf->flags & FAULT_FLAG_WRITE;
	),

	TP_printk("device=%s bar=%u ino=%llu offset=0x%llx address=0x%lx write=%d reason=%s",
		  __get_str(device), __entry->bar, __entry->ino, __entry->offset,
		  __entry->address, __entry->write, __get_str(reason))
);

#endif /* _VFIO_PCI_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE vfio_pci_trace

/* This part must be outside protection */
#include <trace/define_trace.h>
