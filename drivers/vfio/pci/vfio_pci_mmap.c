// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of a device's memory by a CPU: VMAs and page faults.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pci.h>
#include <linux/pfn.h>
#include <linux/pgalloc.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"
#include "vfio_pci_trace.h"

/*
 * A reset is under way, or something like it. Wait until it is known whether the
 * memory comes back: a thread that happens to touch it meanwhile must not die of
 * it. Returns 0 if the caller is to look again.
 */
static vm_fault_t vfio_pci_dma_buf_wait(struct vm_fault *vmf)
{
	const unsigned int user = FAULT_FLAG_USER | FAULT_FLAG_INTERRUPTIBLE;
	struct vfio_pci_dma_buf *priv = vmf->vma->vm_private_data;
	struct file *file;

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;

	if (!fault_flag_allow_retry_first(vmf->flags))
		return vfio_pci_memory_wait(priv->memory, false) ?
		       VM_FAULT_SIGBUS : 0;

	/* Without the VMA locked, so it is the file that holds the buffer. */
	file = get_file(vmf->vma->vm_file);
	release_fault_lock(vmf);
	/*
	 * A fault of the kernel would just retry and wait again, so that only one of
	 * user mode is interruptible.
	 */
	vfio_pci_memory_wait(priv->memory, (vmf->flags & user) == user);
	fput(file);
	return VM_FAULT_RETRY;
}

static noinline void
vfio_pci_dma_buf_trace_fault(const struct vfio_pci_dma_buf *priv,
			     const struct vm_fault *vmf,
			     enum vfio_pci_memory_state state, vm_fault_t ret)
{
	const char *reason;

	/* By the state that the fault has seen: it may be another one by now. */
	if (state == VFIO_PCI_MEMORY_REVOKED)
		reason = priv->source == priv->memory ? "closed" : "revoked";
	else if (state == VFIO_PCI_MEMORY_ENABLED)
		reason = ret & VM_FAULT_OOM ? "no-memory" : "not-inserted";
	else
		reason = vfio_pci_in_d3(priv->memory->pdev) ? "d3" : "disabled";
	trace_vfio_pci_fault_failed(priv, vmf, reason);
}

/* Inline: a single page is the common case, and has no use for the order. */
static __always_inline vm_fault_t
__vfio_pci_dma_buf_fault(struct vm_fault *vmf, unsigned int order)
{
	unsigned long addr = vmf->address, pgoff, pfn;
	struct vm_area_struct *vma = vmf->vma;
	struct vfio_pci_dma_buf *priv = vma->vm_private_data;
	vm_fault_t ret;

	/* Every page fault tries all orders: be quick where nothing fits. */
	if (order) {
		addr = ALIGN_DOWN(addr, PAGE_SIZE << order);
		if (addr < vma->vm_start ||
		    addr + (PAGE_SIZE << order) > vma->vm_end)
			return VM_FAULT_FALLBACK;
	}

	pgoff = linear_page_delta(vma, addr) + vma->vm_pgoff - priv->vm_pgoff;
	if (!vfio_pci_dma_buf_find_pfn(priv, pgoff, order, &pfn))
		return order ? VM_FAULT_FALLBACK : VM_FAULT_SIGBUS;

	if (!IS_ALIGNED(pfn, 1UL << order))
		return VM_FAULT_FALLBACK;

	/* Not under the lock: a cgroup can make an allocation take seconds. */
	if (!order && pmd_none(*vmf->pmd)) {
		ret = vmf_alloc_pte(vmf);
		if (ret) {
			trace_vfio_pci_fault_failed(priv, vmf, "no-memory");
			return ret;
		}
	}

	for (;;) {
		scoped_guard(rwsem_read, &priv->lock) {
			struct vfio_pci_memory *memory = priv->memory;
			enum vfio_pci_memory_state state;

			state = vfio_pci_dma_buf_state(priv);
			ret = VM_FAULT_SIGBUS;
			if (likely(state == VFIO_PCI_MEMORY_ENABLED))
				ret = order ? vfio_pci_insert_pfn(vmf, pfn, order) :
					      vmf_insert_pfn(vma, addr, pfn);
			else if (state == VFIO_PCI_MEMORY_CHANGING)
				break;	/* drops the lock */

			if (trace_vfio_pci_fault_failed_enabled() &&
			    (ret & (VM_FAULT_OOM | VM_FAULT_SIGBUS)))
				vfio_pci_dma_buf_trace_fault(priv, vmf, state, ret);

			/*
			 * Of a closed device there is nothing left to name here,
			 * and a revoked buffer is no news.
			 */
			if (state != VFIO_PCI_MEMORY_REVOKED)
				dev_dbg_ratelimited(&memory->pdev->dev,
						    "%s(,order = %u) page frame 0x%lx: 0x%x\n",
						    __func__, order, pfn,
						    (__force unsigned int)ret);
			return ret;
		}

		ret = vfio_pci_dma_buf_wait(vmf);
		if (ret)
			return ret;
	}
}

static vm_fault_t vfio_pci_dma_buf_fault(struct vm_fault *vmf)
{
	return __vfio_pci_dma_buf_fault(vmf, 0);
}

#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
static vm_fault_t vfio_pci_dma_buf_huge_fault(struct vm_fault *vmf,
					      unsigned int order)
{
	/* It is never called for that, and this saves all other looks at it. */
	if (!order)
		return VM_FAULT_FALLBACK;

	return __vfio_pci_dma_buf_fault(vmf, order);
}
#endif

static const struct vm_operations_struct vfio_pci_dma_buf_vm_ops = {
	.fault = vfio_pci_dma_buf_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = vfio_pci_dma_buf_huge_fault,
#endif
};

static void vfio_pci_dma_buf_init_vma(struct vfio_pci_dma_buf *priv,
				      struct vm_area_struct *vma)
{
	vfio_pci_init_vma(vma);
	/* On x86 it is PAT that decides, see vfio_pci_memattr_track(). */
	if (priv->write_combine)
		vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	vma->vm_private_data = priv;
	vma->vm_ops = &vfio_pci_dma_buf_vm_ops;
}

/**
 * vfio_pci_dma_buf_mmap() - mmap() of the fd of an exported DMABUF
 * @dmabuf: The DMABUF
 * @vma: What is to be mapped, in pages from the start of the buffer
 *
 * That the memory is disabled is no error: it may be enabled at the page fault.
 *
 * Return: 0, -EINVAL for a private mapping, -ENODEV if the buffer is revoked for
 * good, -EOPNOTSUPP if the driver of the device does not let the CPU map this
 * memory.
 */
int vfio_pci_dma_buf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct vfio_pci_dma_buf *priv = dmabuf->priv;

	/* VM_SHARED is not set for an fd that is read only. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;

	if (!priv->can_mmap)
		return -EOPNOTSUPP;

	scoped_guard(rwsem_read, &priv->lock)
		if (vfio_pci_dma_buf_state(priv) == VFIO_PCI_MEMORY_REVOKED)
			return -ENODEV;

	vfio_pci_dma_buf_init_vma(priv, vma);
	return 0;
}

/**
 * vfio_pci_mmap_bar() - Back a mapping of the device fd with a DMABUF
 * @vdev: The device
 * @vma: What is mapped, within the BAR
 * @bar: Number of the BAR
 * @paddr: Where the memory of @vma starts
 *
 * The VMA's file becomes the DMABUF's, which holds the device's file. mmap_lock
 * is held, so memory_lock must not be taken.
 *
 * Return: 0, -EBUSY if a page of it is write-combined, or another error, with @vma
 * as it was.
 */
int vfio_pci_mmap_bar(struct vfio_pci_core_device *vdev,
		      struct vm_area_struct *vma, unsigned int bar,
		      phys_addr_t paddr)
{
	size_t size = vma->vm_end - vma->vm_start;
	struct vfio_pci_dma_buf *priv;
	int ret;

	priv = vfio_pci_dma_buf_alloc(1, false);
	if (!priv)
		return -ENOMEM;

	priv->bar = bar;
	priv->vm_pgoff = vma->vm_pgoff;
	priv->phys_vec[0].paddr = paddr;
	priv->phys_vec[0].len = size;
	vfio_pci_dma_buf_init_ranges(priv);

	ret = vfio_pci_dma_buf_create(priv, &vfio_pci_bar_dmabuf_ops, size,
				      vdev->bar_name[bar], O_RDWR);
	if (ret) {
		kvfree(priv);
		return ret;
	}
	ret = vfio_pci_memory_add(vdev, priv);
	if (ret) {
		dma_buf_put(priv->dmabuf);
		return ret;
	}
	vfio_pci_dma_buf_init_vma(priv, vma);

	/*
	 * Not vma_set_file(): both references move. From here on there is no way
	 * back.
	 */
	priv->device_file = vma->vm_file;
	vma->vm_file = priv->dmabuf->file;
	return 0;
}

/* How many VMAs there are of the buffer, with or without an entry in them */
u64 vfio_pci_dma_buf_nr_vmas(struct vfio_pci_dma_buf *priv)
{
	struct address_space *mapping = priv->inode->i_mapping;
	struct rb_node *node;
	u64 nr = 0;

	i_mmap_lock_read(mapping);
	for (node = rb_first_cached(&mapping->i_mmap); node; node = rb_next(node)) {
		nr++;
		cond_resched();
	}
	i_mmap_unlock_read(mapping);
	return nr;
}

/* Remove the page table entries of all VMAs of the buffer. */
void vfio_pci_dma_buf_zap(struct vfio_pci_dma_buf *priv)
{
	/* All of the mapping: VMAs of the device have its BAR in vm_pgoff. */
	unmap_mapping_range(priv->inode->i_mapping, 0, 0, true);
}
