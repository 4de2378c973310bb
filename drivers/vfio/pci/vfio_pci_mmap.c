// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPU mappings of a device's memory: where in the memory an offset of a buffer
 * is, and VMAs.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/pagemap.h>
#include <linux/pci.h>
#include <linux/pfn.h>
#include <linux/wait_bit.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"

/**
 * vfio_pci_merge_ranges() - Make one range of those that follow each other
 * @phys_vec: Ranges, in the order of their offsets in the buffer
 * @nr_ranges: How many
 *
 * Nothing else may use @phys_vec meanwhile. Neighbours in the buffer that are
 * neighbours in memory can be mapped by one huge page, and be found in fewer
 * steps.
 *
 * Return: How many ranges are left, at least one.
 */
u32 vfio_pci_merge_ranges(struct phys_vec *phys_vec, u32 nr_ranges)
{
	u32 i, last = 0;

	for (i = 1; i < nr_ranges; i++) {
		struct phys_vec *prev = &phys_vec[last];
		size_t len;

		if (prev->paddr + prev->len == phys_vec[i].paddr &&
		    !check_add_overflow(prev->len, phys_vec[i].len, &len))
			prev->len = len;
		else
			phys_vec[++last] = phys_vec[i];
	}
	return last + 1;
}

/**
 * vfio_pci_sum_ranges() - Prepare ranges for vfio_pci_find_pfn()
 * @phys_vec: Ranges, in the order of their offsets in the buffer
 * @nr_ranges: How many, each of whole pages
 * @range_end: Returns for each the offset behind it, in pages
 */
void vfio_pci_sum_ranges(const struct phys_vec *phys_vec, u32 nr_ranges,
			 unsigned long *range_end)
{
	unsigned long sum = 0;
	u32 i;

	for (i = 0; i < nr_ranges; i++) {
		sum += PFN_DOWN(phys_vec[i].len);
		range_end[i] = sum;
	}
}

static int vfio_pci_dma_buf_wait_settled(struct vfio_pci_dma_buf *priv)
{
	return wait_var_event_killable(&priv->state, READ_ONCE(priv->state) !=
				       VFIO_PCI_DMA_BUF_BLOCKED);
}

/*
 * A reset is under way, or something like it. Wait until it is known whether
 * the memory comes back: a thread that happens to touch it meanwhile must not
 * die of it. Returns 0 if the caller is to look again.
 */
static vm_fault_t vfio_pci_dma_buf_wait(struct vm_fault *vmf)
{
	struct vfio_pci_dma_buf *priv = vmf->vma->vm_private_data;
	struct file *file;

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;

	if (!fault_flag_allow_retry_first(vmf->flags))
		return vfio_pci_dma_buf_wait_settled(priv) ? VM_FAULT_SIGBUS : 0;

	/* Without the VMA locked, so it is the file that holds the buffer. */
	file = get_file(vmf->vma->vm_file);
	release_fault_lock(vmf);
	vfio_pci_dma_buf_wait_settled(priv);
	fput(file);
	return VM_FAULT_RETRY;
}

/* Inline, as the common single page is so much simpler than the rest. */
static __always_inline vm_fault_t
__vfio_pci_dma_buf_fault(struct vm_fault *vmf, unsigned long addr,
			 unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct vfio_pci_dma_buf *priv = vma->vm_private_data;
	unsigned long pgoff, pfn;
	vm_fault_t ret;

	pgoff = linear_page_delta(vma, addr) + vma->vm_pgoff - priv->vm_pgoff;
	if (!vfio_pci_find_pfn(priv->phys_vec, priv->range_end, priv->nr_ranges,
			       pgoff, order, &pfn))
		return order ? VM_FAULT_FALLBACK : VM_FAULT_SIGBUS;

	if (!IS_ALIGNED(pfn, 1UL << order))
		return VM_FAULT_FALLBACK;

	/*
	 * Whoever changes the state zaps all VMAs after that. With the lock
	 * held until the entry is there, either the state forbids it or the
	 * zap finds it.
	 */
	do {
		scoped_guard(rwsem_read, &priv->lock) {
			if (priv->state == VFIO_PCI_DMA_BUF_USABLE)
				return order ?
				       vfio_pci_insert_pfn(vmf, pfn, order) :
				       vmf_insert_pfn(vma, addr, pfn);
			if (priv->state != VFIO_PCI_DMA_BUF_BLOCKED)
				return VM_FAULT_SIGBUS;
		}
		ret = vfio_pci_dma_buf_wait(vmf);
	} while (!ret);

	return ret;
}

static vm_fault_t vfio_pci_dma_buf_fault(struct vm_fault *vmf)
{
	return __vfio_pci_dma_buf_fault(vmf, vmf->address, 0);
}

#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
static vm_fault_t vfio_pci_dma_buf_huge_fault(struct vm_fault *vmf,
					      unsigned int order)
{
	unsigned long addr = ALIGN_DOWN(vmf->address, PAGE_SIZE << order);

	/* Every page fault tries all orders: be quick where nothing fits. */
	if (addr < vmf->vma->vm_start ||
	    addr + (PAGE_SIZE << order) > vmf->vma->vm_end)
		return VM_FAULT_FALLBACK;

	return __vfio_pci_dma_buf_fault(vmf, addr, order);
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
	vma->vm_private_data = priv;
	vma->vm_ops = &vfio_pci_dma_buf_vm_ops;
}

/**
 * vfio_pci_dma_buf_mmap() - mmap() of the fd of an exported DMABUF
 * @dmabuf: The DMABUF
 * @vma: What is to be mapped, in pages from the start of the buffer
 *
 * That the memory is away just now is no error, it may be back at the page
 * fault.
 *
 * Return: 0, -EACCES if the DMABUF was exported read only, -EINVAL for a private
 * mapping or one that is not all in the buffer, -ENODEV if the buffer is revoked
 * for good, -EOPNOTSUPP if the driver of the device does not let the CPU map
 * this memory.
 */
int vfio_pci_dma_buf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct vfio_pci_dma_buf *priv = dmabuf->priv;
	unsigned long end;

	/* VM_SHARED is not set for an fd that is read only. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;

	/* mm has checked the fd of the DMABUF, unless this is an importer's. */
	if (!(dmabuf->file->f_mode & FMODE_READ) ||
	    ((vma->vm_flags & VM_MAYWRITE) &&
	     !(dmabuf->file->f_mode & FMODE_WRITE)))
		return -EACCES;

	/* What dma-buf checks can overflow on 32-bit. */
	if (check_add_overflow(vma->vm_pgoff, vma_pages(vma), &end) ||
	    end > PFN_DOWN(dmabuf->size))
		return -EINVAL;

	if (!priv->can_mmap)
		return -EOPNOTSUPP;

	scoped_guard(rwsem_read, &priv->lock)
		if (priv->state == VFIO_PCI_DMA_BUF_REVOKED)
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
 * Return: 0 or an error, with @vma as it was.
 */
int vfio_pci_mmap_bar(struct vfio_pci_core_device *vdev,
		      struct vm_area_struct *vma, unsigned int bar,
		      phys_addr_t paddr)
{
	size_t size = vma->vm_end - vma->vm_start;
	struct vfio_pci_dma_buf *priv;
	int ret;

	priv = vfio_pci_dma_buf_alloc();
	if (!priv)
		return -ENOMEM;

	priv->vm_pgoff = vma->vm_pgoff;
	priv->bar_range = (struct phys_vec){ .paddr = paddr, .len = size };
	priv->bar_range_end = PFN_DOWN(size);
	priv->phys_vec = &priv->bar_range;
	priv->range_end = &priv->bar_range_end;
	priv->nr_ranges = 1;

	ret = vfio_pci_dma_buf_create(priv, size, O_RDWR);
	if (ret) {
		vfio_pci_dma_buf_free(priv);
		return ret;
	}

	/*
	 * For /proc/PID/maps. There is no fd by which it could be changed, and
	 * the device stays open until the release takes it back.
	 */
	spin_lock(&priv->dmabuf->name_lock);
	priv->dmabuf->name = vdev->bar_name[bar];
	spin_unlock(&priv->dmabuf->name_lock);
	vfio_pci_dma_buf_init_vma(priv, vma);

	/* Both references move. From here on there is no way back. */
	priv->device_file = vma->vm_file;
	vma->vm_file = priv->dmabuf->file;
	vfio_pci_dma_buf_publish(vdev, priv);
	return 0;
}

/* Remove the page table entries of all VMAs of the buffer. */
void vfio_pci_dma_buf_zap(struct vfio_pci_dma_buf *priv)
{
	/* All of the mapping: VMAs of the device have its BAR in vm_pgoff. */
	unmap_mapping_range(priv->inode->i_mapping, 0, 0, true);
}
