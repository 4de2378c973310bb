/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _EDU_REGISTERS_H_
#define _EDU_REGISTERS_H_

#include <linux/bits.h>

#define EDU_PCI_VENDOR_ID		0x1234
#define EDU_PCI_DEVICE_ID		0x11e8

/* The registers below 0x80 take accesses of 4 bytes only. */

#define EDU_ID				0x00
#define EDU_ID_MASK			0xff00ffffU	/* All but the minor version */
#define EDU_ID_V1			0x010000edU

#define EDU_LIVENESS			0x04	/* Reads as what was written, inverted */

#define EDU_STATUS			0x20
#define EDU_STATUS_IRQ_FACTORIAL	BIT(7)

#define EDU_IRQ_STATUS			0x24
#define EDU_IRQ_RAISE			0x60
#define EDU_IRQ_ACK			0x64

/*
 * A write of 4 bytes is fine for the registers of the DMA engine too, but it
 * clears the upper half of an address.
 */

#define EDU_DMA_SRC			0x80
#define EDU_DMA_DST			0x88
#define EDU_DMA_COUNT			0x90
#define EDU_DMA_CMD			0x98
#define EDU_DMA_CMD_RUN			BIT(0)
#define EDU_DMA_CMD_TO_RAM		BIT(1)	/* else to the buffer */

/* One side of every DMA is this buffer, which only the DMA engine can reach. */
#define EDU_BUFFER			0x40000
#define EDU_BUFFER_SIZE			4096

#endif /* _EDU_REGISTERS_H_ */
