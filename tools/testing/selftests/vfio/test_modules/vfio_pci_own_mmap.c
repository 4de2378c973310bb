// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio-pci with an mmap() of its own, for tests: as a driver does it whose memory
 * is not simply what the BARs have, only that here it is.
 */
#include <linux/cleanup.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

static bool no_dmabuf;
module_param(no_dmabuf, bool, 0600);
MODULE_PARM_DESC(no_dmabuf, "Do not export DMABUFs, for the next device that is bound");

#define PGOFF_SHIFT	(VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT)
#define PGOFF_MASK	((1UL << PGOFF_SHIFT) - 1)

static vm_fault_t own_mmap_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	unsigned long addr = ALIGN_DOWN(vmf->address, PAGE_SIZE << order);
	struct vm_area_struct *vma = vmf->vma;
	struct vfio_pci_core_device *vdev = vma->vm_private_data;
	unsigned int bar = vma->vm_pgoff >> PGOFF_SHIFT;
	unsigned long pfn;

	pfn = PHYS_PFN(pci_resource_start(vdev->pdev, bar)) +
	      (vma->vm_pgoff & PGOFF_MASK) + linear_page_delta(vma, addr);
	if (!is_aligned_for_order(vma, addr, pfn, order))
		return VM_FAULT_FALLBACK;

	/* What core takes for writing from the zap to the end of a reset */
	guard(rwsem_read)(&vdev->memory_lock);
	return vfio_pci_vmf_insert_pfn(vdev, vmf, pfn, order);
}

static vm_fault_t own_mmap_fault(struct vm_fault *vmf)
{
	return own_mmap_huge_fault(vmf, 0);
}

static const struct vm_operations_struct own_mmap_vm_ops = {
	.fault = own_mmap_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = own_mmap_huge_fault,
#endif
};

static int own_mmap_mmap(struct vfio_device *core_vdev,
			 struct vm_area_struct *vma)
{
	struct vfio_pci_core_device *vdev =
		container_of(core_vdev, struct vfio_pci_core_device, vdev);
	unsigned long pgoff = vma->vm_pgoff & PGOFF_MASK;
	unsigned int bar = vma->vm_pgoff >> PGOFF_SHIFT;
	u64 size;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (bar >= VFIO_PCI_ROM_REGION_INDEX || !vdev->bar_mmap_supported[bar])
		return -EINVAL;

	size = PAGE_ALIGN(pci_resource_len(vdev->pdev, bar));
	if (PFN_PHYS((u64)pgoff + vma_pages(vma)) > size)
		return -EINVAL;

	vma->vm_private_data = vdev;
	vma->vm_page_prot = pgprot_decrypted(pgprot_noncached(vma->vm_page_prot));
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &own_mmap_vm_ops;
	return 0;
}

static int own_mmap_open_device(struct vfio_device *core_vdev)
{
	struct vfio_pci_core_device *vdev =
		container_of(core_vdev, struct vfio_pci_core_device, vdev);
	int ret;

	ret = vfio_pci_core_enable(vdev);
	if (ret)
		return ret;

	vfio_pci_core_finish_enable(vdev);
	return 0;
}

static const struct vfio_device_ops own_mmap_ops = {
	.name = KBUILD_MODNAME,
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = own_mmap_open_device,
	.close_device = vfio_pci_core_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.get_region_info_caps = vfio_pci_ioctl_get_region_info,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = own_mmap_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.match_token_uuid = vfio_pci_core_match_token_uuid,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static const struct vfio_pci_device_ops own_mmap_pci_ops = {
	.get_dmabuf_phys = vfio_pci_core_get_dmabuf_phys,
};

static int own_mmap_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vfio_pci_core_device *vdev;
	int ret;

	vdev = vfio_alloc_device(vfio_pci_core_device, vdev, &pdev->dev,
				 &own_mmap_ops);
	if (IS_ERR(vdev))
		return PTR_ERR(vdev);

	dev_set_drvdata(&pdev->dev, vdev);
	if (!no_dmabuf)
		vdev->pci_ops = &own_mmap_pci_ops;
	ret = vfio_pci_core_register_device(vdev);
	if (ret)
		vfio_put_device(&vdev->vdev);
	return ret;
}

static void own_mmap_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *vdev = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(vdev);
	vfio_put_device(&vdev->vdev);
}

/* Any device, but only where driver_override says so. No modalias: tests load us. */
static const struct pci_device_id own_mmap_table[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID) },
	{}
};

static struct pci_driver own_mmap_driver = {
	.name = KBUILD_MODNAME,
	.id_table = own_mmap_table,
	.probe = own_mmap_probe,
	.remove = own_mmap_remove,
	.err_handler = &vfio_pci_core_err_handlers,
	.driver_managed_dma = true,
};
module_pci_driver(own_mmap_driver);

MODULE_DESCRIPTION("vfio-pci with an mmap() of its own, for the tests of VFIO");
MODULE_LICENSE("GPL");
